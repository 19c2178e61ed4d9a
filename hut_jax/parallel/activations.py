"""How a model's activations are split over a mesh with the axes of `hut_jax.parallel.mesh`, if there is one."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

T = TypeVar("T")

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
"""The axes over which a batch is split."""

ANY = PartitionSpec.UNCONSTRAINED
"""An axis that XLA may split as it likes."""


def run_on(mesh: Mesh, forward: Callable[..., T]) -> Callable[..., T]:
    """Wrap a function so that its activations are split over this mesh.

    The mesh is current while the function runs, and the other functions of this module use it.
    """

    def run(*args: Any, **kwargs: Any) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return forward(*args, **kwargs)

    return run


def split_batch(x: Array, *axes: Any) -> Array:
    """Split an activation's first axis, the examples, over the devices that split the batch.

    Without this, XLA may send activations between devices instead of gathering a kernel when it is used.

    Args:
        x: an activation.
        *axes: for each further axis the axis of the mesh that splits it, None for no split, or `ANY`.
    """
    return _constrained(x, BATCH, *axes)


def batch_parts(mesh: Mesh | None = None) -> int:
    """The number of parts into which a batch is split.

    Args:
        mesh: the devices. By default it is the current mesh, which `run_on` sets. If there is none, a batch has one
            part.
    """
    if mesh is None:
        ambient = jax.sharding.get_abstract_mesh()
        return math.prod(ambient.shape[axis] for axis in BATCH) if {*AXES} <= {*ambient.auto_axes} else 1
    return math.prod(mesh.shape[axis] for axis in BATCH)


def splits_kernels() -> bool:
    """Whether each product with a kernel is split.

    It is if the current mesh, which `run_on` sets, has several devices on its axis `tensor`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return {*AXES} <= {*mesh.auto_axes} and mesh.shape["tensor"] > 1


def gathered(x: Array) -> Array:
    """The array, whole on each device."""
    return _constrained(x)


def _constrained(x: Array, *axes: Any) -> Array:
    # Within `jax.shard_map` a device has only its own part.
    if not {*AXES} <= {*jax.sharding.get_abstract_mesh().auto_axes}:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
