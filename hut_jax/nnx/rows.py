"""Another set of factors for each row of a batch."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, PyTree

from hut_jax.adapters.params import checked_ids
from hut_jax.core.errors import UserError
from hut_jax.core.trees import flatten, unflatten
from hut_jax.nnx.factors import Factors, factors_by_path, set_factors


def apply_rows(
    model: nnx.Module, stacked: PyTree[Array], ids: Int[Array, " batch"], *args: PyTree[Array]
) -> PyTree[Array]:
    """Call an adapted model with other factors for each row of a batch.

    Where a transformation works on activations, all rows share one product with W0. Changes of the model's own state,
    such as batch statistics, are dropped.

    Args:
        model: from `adapt`.
        stacked: sets of factors, stacked leaf by leaf on a new first axis, as by `Bank.stacked`.
        ids: the index of each row's set, as by `Bank.ids`. Under `jit` an index out of range gives NaN.
        *args: the model's own. The first axis of every array is the batch.

    Raises:
        UserError: the model is not adapted, the factors are not its, or an index is out of range.
    """
    flat, own = flatten(stacked), factors_by_path(model)
    if flat.keys() != own.keys():
        raise UserError("these are not the factors of this model, stacked on a new first axis, as by Bank.stacked()")
    checked = checked_ids(ids, len(next(iter(flat.values()))))
    safe = jnp.where(checked < 0, len(next(iter(flat.values()))), checked)
    rows = unflatten(
        {path: jnp.asarray(leaf).at[safe].get(mode="fill", fill_value=jnp.nan) for path, leaf in flat.items()}
    )
    parts: Any = nnx.split(model, Factors, ...)
    graph, factors, rest = parts

    def one(row: PyTree[Array], args: PyTree[Array]) -> PyTree[Array]:
        twin: Any = nnx.merge(graph, factors, rest, copy=True)
        set_factors(twin, row)
        out = twin(*jax.tree.map(lambda leaf: leaf[None], args))
        return jax.tree.map(lambda leaf: leaf[0], out)

    return jax.vmap(one)(rows, args)
