"""The placement of a run's arrays on the devices that train it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from hut_jax.adapters.sharding import factor_specs
from hut_jax.config import RunConfig
from hut_jax.core.trees import Path
from hut_jax.parallel.activations import batch_parts, run_on
from hut_jax.parallel.mesh import (
    TRANSFORMER,
    check_batch,
    check_heads,
    describe,
    make_mesh,
    own_share,
    param_specs,
    place_batch,
    shardings,
)
from hut_jax.parallel.processes import Share
from hut_jax.runs.batches import evaluation_batching, training_batching
from hut_jax.runs.run import Run

T = TypeVar("T")


def mesh_for(config: RunConfig) -> Mesh:
    """The mesh of `config.mesh`.

    Raises:
        UserError: there are too few devices, or they cannot share out the batches.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_batch("config.train.batch_size / config.train.accumulate", training_batching(config).batch_size, mesh)
    check_batch("config.eval.batch_size", evaluation_batching(config).batch_size, mesh)
    return mesh


@dataclass(frozen=True)
class Placement:
    """Where parameters, factors and batches lie on a mesh.

    Attributes:
        mesh: the devices.
        specs: how each parameter is split, by path.
        factors: where each factor lies: a tree like the factors'.
    """

    mesh: Mesh
    specs: Mapping[Path, PartitionSpec]
    factors: PyTree[NamedSharding]

    @property
    def params(self) -> PyTree[NamedSharding]:
        """Where each parameter lies: a tree like the parameters'."""
        return shardings(self.mesh, self.specs)

    @property
    def whole(self) -> NamedSharding:
        """The placement of an array that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def parts(self) -> int:
        """The number of parts that a batch is split into."""
        return batch_parts(self.mesh)

    @cached_property
    def share(self) -> Share:
        """This process's share of each batch."""
        return own_share(self.mesh)

    def batch(self, batch: PyTree[Any]) -> PyTree[Array]:
        """Place this process's share of a batch: each device gets its own examples."""
        return place_batch(self.mesh, batch, share=self.share)

    def run(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function with its activations placed on the mesh."""
        return run_on(self.mesh, function)

    def describe(self) -> str:
        """Describe the mesh, and how the parameters are split over it."""
        return describe(self.mesh, self.specs)


def place(run: Run, mesh: Mesh) -> Placement:
    """The placement of a run on a mesh.

    Raises:
        UserError: the devices cannot share out the model.
    """
    check_heads(run.model.config.key_heads, mesh)
    specs = param_specs(run.shapes, TRANSFORMER, mesh)
    return Placement(mesh, specs, shardings(mesh, factor_specs(run.adapter.sites(run.shapes), specs)))
