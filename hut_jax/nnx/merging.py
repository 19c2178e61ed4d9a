"""Out of an adapted model again: a plain one of the same classes, merged or as it was."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from hut_jax.core.any_tree import FACTORS
from hut_jax.core.errors import UserError
from hut_jax.core.nnx_walk import modules, variables
from hut_jax.core.trees import Path, show
from hut_jax.nnx.factors import factors_by_path
from hut_jax.nnx.modules import DROPOUT, Adapted, held_at, merged

Model = TypeVar("Model", bound=nnx.Module)


def merge(model: Model) -> Model:
    """A plain model that computes what the adapted one does. Arrays that do not change are shared with it.

    Raises:
        UserError: the model is not adapted, or (outside of `jit`, where values are known) a merged parameter is not
            finite.
    """
    factors_by_path(model)
    paths = {id(held.variable): (*held.path, *held.within) for held in variables(model)}
    plain, changed = _plain(model, copies=True)
    for key, value in changed.items():
        finite = jnp.isfinite(value).all()
        if not isinstance(finite, jax.core.Tracer) and not bool(finite):
            raise UserError(
                f"the merged {show(paths[key])} has values that are not finite; check the factors and the dtype"
            )
    return plain


def base(model: Model) -> Model:
    """The plain model with the base's parameters: `adapt` undone. Arrays are shared with the adapted model.

    Raises:
        UserError: the model is not adapted.
    """
    factors_by_path(model)
    return _copied(model, {}, copies=True)


def merged_copy(model: Model) -> Model:
    """As `merge`, within a call: all Variables that do not change are the model's own."""
    return _plain(model, copies=False)[0]


def _plain(model: Model, *, copies: bool) -> tuple[Model, dict[int, Array]]:
    """The merged model, and what changed: by the identity of the base's Variable."""
    changed: dict[int, Array] = {}
    for _, module in modules(model):
        if isinstance(module, Adapted):
            for spec in module.adapter_specs:
                changed.update({id(held_at(module, place)): new for place, new in merged(module, spec).items()})
    return _copied(model, changed, copies=copies), changed


def _copied(model: Model, changed: dict[int, Array], *, copies: bool) -> Model:
    """A copy of the modules, of their own classes and without factors, in which these Variables have these values."""
    done: dict[int, Any] = {}

    def variable(_: Path, old: nnx.Variable) -> nnx.Variable:
        if id(old) not in done:
            value = changed.get(id(old))
            if value is not None:
                metadata = {**old.get_metadata(), "ref": False}
                done[id(old)] = type(old).from_metadata(value, metadata)
            else:
                done[id(old)] = old.copy() if copies else old
        return done[id(old)]

    def copy(value: Any) -> Any:
        if isinstance(value, nnx.Pytree):
            if id(value) not in done:
                kind = value.adapter_base if isinstance(value, Adapted) else type(value)
                twin = done[id(value)] = object.__new__(kind)
                for name, child in vars(value).items():
                    if name == "_pytree__nodes":
                        child = _without_ours(child)
                    elif name == "_pytree__state":  # it names the trace in which the module may be changed: this one
                        child = type(child)(initializing=child.initializing, is_setup=child.is_setup)
                    elif not name.startswith("_pytree__"):
                        child = copy(child)
                    if name not in (FACTORS, DROPOUT):
                        object.__setattr__(twin, name, child)
            return done[id(value)]
        if isinstance(value, nnx.Variable):
            return variable((), value)
        if isinstance(value, dict):
            return type(value)({name: copy(child) for name, child in value.items()})
        if isinstance(value, list) or type(value) is tuple:
            return type(value)([copy(child) for child in value])
        return value

    return copy(model)


def _without_ours(nodes: Any) -> Any:
    kept = {name: data for name, data in nodes.items() if name not in (FACTORS, DROPOUT)}
    return nodes if len(kept) == len(nodes) else type(nodes)(kept)
