"""The section `config.mesh`."""

from pydantic import Field

from hut_jax.core.sections import section


@section
class MeshConfig:
    """How many devices share out what (docs/running.md); -1: all that the other axes leave."""

    data: int = Field(default=-1, description="devices that share out batches")
    fsdp: int = Field(default=1, description="devices that share out batches and parameters")
    tensor: int = Field(default=1, description="devices that share out the products of each layer")
