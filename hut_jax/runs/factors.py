"""The initial factors of a run."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, PyTree

from hut_jax.adapters.files import check_base, load_adapter
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.scanned_layers import stacked_as
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.models.hub.pretrained import init_params
from hut_jax.runs.run import Run


def init_factors(run: Run, params: PyTree[Array]) -> PyTree[Array]:
    """The initial factors: those of the adapter `config.adapter.start`, or else the identity.

    Parameters that the checkpoint lacks are drawn at random, as the model's authors drew them.

    Args:
        run: the run.
        params: the base's parameters.

    Raises:
        UserError: the adapter to start from has another transformation, other sites or another base.
    """
    key = jax.random.key(run.config.seed)
    factors = flatten(jax.jit(run.adapter.init)(key, params))
    if run.config.adapter.start:
        factors |= _started(run, params, factors)
    new = run.new_parameters
    if new:
        drawn = flatten(init_params(run.model, key))
        factors |= {(*path, "d"): drawn[path] for path in new}
    return unflatten(factors)


def _started(run: Run, params: PyTree[Array], factors: Mapping[Path, Any]) -> dict[Path, Any]:
    """The factors of the adapter to start from, without those of `also_train`."""
    folder = run.config.adapter.start
    check_base(folder, params, name=run.config.model)
    other, started = load_adapter(folder)
    if other.transform != run.adapter.transform:
        raise UserError(
            f"config.adapter.start: {folder} has {other.transform}, and this run has {run.adapter.transform}"
        )
    given = flatten(stacked_as(started, params))
    wanted = [(*site.path, name) for site in run.adapter.sites(params) if not site.also for name in site.factors]
    for path in wanted:
        if path not in given or given[path].shape != factors[path].shape:
            raise UserError(
                f"config.adapter.start: {folder} has no {show(path)} of this run's shape; "
                f"{nearest(show(path), map(show, given))}"
            )
    return {path: given[path] for path in wanted}
