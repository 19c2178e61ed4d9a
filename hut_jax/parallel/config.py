"""The section `config.mesh`."""

from collections.abc import Mapping
from dataclasses import asdict

from pydantic import Field

from hut_jax.core.errors import UserError
from hut_jax.core.sections import section


@section
class MeshConfig:
    """The number of devices on each axis of the mesh (docs/running.md); -1: as many as the other axes leave."""

    data: int = Field(default=-1, description="devices that split batches")
    fsdp: int = Field(default=1, description="devices that split batches and parameters")
    tensor: int = Field(default=1, description="devices that split the products of each layer")

    def __post_init__(self):
        check_sizes(asdict(self))


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Check the sizes of a mesh's axes, whatever the number of devices.

    Raises:
        UserError: a size is neither -1 nor 1 or more, or several are -1.
    """
    for axis, size in sizes.items():
        if size != -1 and size < 1:
            raise UserError(f"config.mesh.{axis} is {size}; it must be 1 or more, or -1 for what the others leave")
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"config.mesh.{free[0]} and config.mesh.{free[1]} are both -1; only one can take what is left")
