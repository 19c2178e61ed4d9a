"""The section `config.mesh`."""

from pydantic import Field

from hut_jax.core.sections import section


@section
class MeshConfig:
    """The number of devices on each axis of the mesh (docs/running.md); -1: as many as the other axes leave."""

    data: int = Field(default=-1, description="devices that split batches")
    fsdp: int = Field(default=1, description="devices that split batches and parameters")
    tensor: int = Field(default=1, description="devices that split the products of each layer")
