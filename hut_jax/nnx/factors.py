"""What trains in an adapted NNX model: Variables of a type of their own."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from hut_jax.core.any_tree import FACTORS, value_of
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.nnx_walk import variables
from hut_jax.core.trees import Path, flatten, show, unflatten


class Factors(nnx.Variable):
    """One factor of an adapter. `nnx.split`, `nnx.state` and `nnx.DiffState` find all of them by this type."""


def factors_by_path(model: nnx.Module) -> dict[Path, Factors]:
    """The factors of an adapted model, by the paths that they have in the tree of `Adapter.init`.

    Raises:
        UserError: the model has none.
    """
    found: dict[Path, Factors] = {}
    for held in variables(model):
        known = any(held.variable is other for other in found.values())
        if isinstance(held.variable, Factors) and held.within[0] == FACTORS and not known:
            found[*held.path, *held.within[1:]] = held.variable
    if not found:
        raise UserError(
            f"this {type(model).__name__} has no factors: adapt it first, hut_jax.nnx.adapt(model, adapter)"
        )
    return found


def factors(model: nnx.Module) -> PyTree[Array]:
    """The factors of an adapted model, as the tree that `Adapter.init` gives: for `save_adapter`, `merge` or a `Bank`.

    Raises:
        UserError: the model is not adapted.
    """
    return unflatten({path: value_of(factor) for path, factor in factors_by_path(model).items()})


def set_factors(model: nnx.Module, factors: PyTree[Array]) -> None:
    """Give an adapted model other factors of the same adapter, in place; nothing is compiled again.

    Args:
        model: from `adapt`.
        factors: a tree like that of `Adapter.init`, such as one of a `Bank`.

    Raises:
        UserError: they are not those of the model's adapter.
    """
    own, given = factors_by_path(model), flatten(factors)
    for path in sorted(own.keys() ^ given.keys()):
        whose = "the model's" if path in own else "among those given"
        other = given if path in own else own
        raise UserError(f"factor {show(path)} is only {whose}; {nearest(show(path), map(show, other))}")
    for path, variable in own.items():
        new = jnp.asarray(given[path])
        if new.shape != variable.shape:
            raise UserError(f"factor {show(path)} has shape {list(new.shape)}, and the model's {list(variable.shape)}")
        variable.set_value(new.astype(variable.dtype))
