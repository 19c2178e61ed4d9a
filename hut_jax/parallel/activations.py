"""Where a model's activations lie on a mesh with the axes of `hut_jax.parallel.mesh`; without a mesh, nothing."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

T = TypeVar("T")

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The axes over which examples are shared out."""
ANY = PartitionSpec.UNCONSTRAINED


def run_on(mesh: Mesh, forward: Callable[..., T]) -> Callable[..., T]:
    """The model, with what it says of its activations said of this mesh."""

    def run(*args: Any, **kwargs: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return forward(*args, **kwargs)

    return run


def shared_out(x: Array, *axes: Any) -> Array:
    """The same, with its first axis, of examples, shared out over the devices, and the others as named.

    Without this XLA may rather send activations than gather a layer's kernel when it is used.

    Args:
        x: an activation.
        *axes: for each further axis the mesh's, None for whole on each device, or `ANY`.
    """
    return _lies(x, BATCH, *axes)


def batch_parts() -> int:
    """Into how many parts devices share out a batch here."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in BATCH) if {*AXES} <= {*mesh.auto_axes} else 1


def splits_kernels() -> bool:
    """Whether several devices hold a part of each kernel here, for their part of the products."""
    mesh = jax.sharding.get_abstract_mesh()
    return {*AXES} <= {*mesh.auto_axes} and mesh.shape["tensor"] > 1


def whole(x: Array) -> Array:
    """The same, gathered on each device."""
    return _lies(x)


def _lies(x: Array, *axes: Any) -> Array:
    if not {*AXES} <= {*jax.sharding.get_abstract_mesh().auto_axes}:  # within `jax.shard_map` each device is alone
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
