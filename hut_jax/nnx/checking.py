"""Find parameters that a model reads past the module that owns them, where they are not read adapted.

A model can take a parameter from `nnx.state(layer)` or `vars(layer)` while it runs. So the first call of each kind is
traced once more. In the trace every adapted read leaves a mark, and each base parameter is followed: if it goes
anywhere but into a mark, the model's output is not that of the merged model, and the call is refused.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend import core as jex
from jaxtyping import Array

from hut_jax.adapters.tracing import called_functions
from hut_jax.core.any_tree import value_of
from hut_jax.core.errors import UserError
from hut_jax.core.nnx_walk import modules, variables
from hut_jax.core.trees import Path, show
from hut_jax.nnx.modules import MARKS, Adapted, held_at

_MARK = "hut_jax_read"
"""The name of the function that stands for an adapted read in the trace."""

_KEPT = 512
"""How many kinds of calls are remembered."""

_seen: dict[Any, None] = {}


@dataclass(frozen=True)
class Checked:
    """How the outermost module of an adapted model is called: its first call of each kind is checked.

    Attributes:
        graph: the base model's structure, by which calls of one model are told from those of another.
        run: the module's call otherwise; None: its own.
    """

    graph: Any
    run: Any

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Check the call, if it is the first of its kind, and run it."""
        if MARKS.get() is None:
            _check_once(self, module, args, kwargs)
        if self.run is not None:
            return self.run(module, *args, **kwargs)
        return module.adapter_base.__call__(module, *args, **kwargs)


def _check_once(checked: Checked, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    given, tree = jax.tree.flatten((args, kwargs), is_leaf=lambda leaf: isinstance(leaf, nnx.Pytree))
    kinds = tuple(jax.typeof(leaf) if _is_array(leaf) else type(leaf) for leaf in given)
    static = tuple(leaf for leaf in given if not _is_array(leaf) and not isinstance(leaf, nnx.Pytree))
    key: Any = (checked, type(module), tree, kinds, static)
    try:
        if key in _seen:
            return
    except TypeError:  # something has no hash: every call is checked
        key = None
    if (read := read_past(module, args, kwargs)) is not None:
        raise UserError(
            f"{show(read)} is read past the module that owns it, from its state or its attributes, where no adapter "
            "can act; exclude it, or run the merged model, hut_jax.nnx.merge(model)"
        )
    if key is not None:
        while len(_seen) >= _KEPT:
            _seen.pop(next(iter(_seen)))
        _seen[key] = None


def read_past(module: Any, args: tuple, kwargs: Mapping[str, Any]) -> Path | None:
    """An adapted parameter of which this call reads the base's value; None if there is none, or nothing can be told."""
    owned = {id(value): place for place, value in _adapted(module).items()}
    places: dict[int, nnx.Variable] = {}
    for held in variables(module):
        if id(held.variable) in owned:
            places.setdefault(id(held.variable), held.variable)
    order = list(places)
    graph, state = nnx.split(module)

    def run(values: list[Array]) -> Any:
        twin = nnx.merge(graph, state, copy=True)
        own = _adapted(twin)
        for key, value in zip(order, values, strict=True):
            own[owned[key]].set_raw_value(value)
        copies = jax.tree.map(
            lambda leaf: nnx.clone(leaf) if isinstance(leaf, nnx.Pytree) else leaf,
            (args, dict(kwargs)),
            is_leaf=lambda leaf: isinstance(leaf, nnx.Pytree),
        )
        out = twin(*copies[0], **copies[1])
        return [leaf for leaf in jax.tree.leaves(out) if _is_array(leaf)]

    try:
        with _marked():
            jaxpr = jax.make_jaxpr(run)([value_of(places[key]) for key in order]).jaxpr
    except UserError:
        raise
    except Exception:  # the model may need values; or it is wrong, and says so itself when it runs
        return None
    found, passed = _follow(jaxpr, dict(zip(jaxpr.invars, order, strict=True)))
    found.update(key for key in passed if key is not None)
    return owned[next(key for key in order if key in found)][0] if found else None


def _adapted(module: Any) -> dict[tuple[Path, str], nnx.Variable]:
    """The base's Variables that are read adapted, by the site's path and what they are to it."""
    found: dict[tuple[Path, str], nnx.Variable] = {}
    for _, own in modules(module):
        if isinstance(own, Adapted):
            for spec in own.adapter_specs:
                for what, place in (("kernel", spec.kernel), ("bias", spec.bias)):
                    if place is not None:
                        found.setdefault((spec.path, what), held_at(own, place))
    return found


@contextmanager
def _marked() -> Any:
    token = MARKS.set(mark)
    try:
        yield
    finally:
        MARKS.reset(token)


def mark(value: Array) -> Array:
    """Stand for an adapted read of this value."""

    def read(value: Array) -> Array:
        return jax.lax.optimization_barrier(value)

    read.__name__ = read.__qualname__ = _MARK
    return jax.jit(read)(value)


def _follow(jaxpr: Any, held: Mapping[Any, Any]) -> tuple[set[Any], list[Any]]:
    """Which of the held values something other than a mark reads, and which the jaxpr returns, output by output."""
    known: dict[Any, Any] = dict(held)
    found: set[Any] = set()

    def leaf(var: Any) -> Any:
        return None if isinstance(var, jex.Literal) else known.get(var)

    for eqn in jaxpr.eqns:
        inside = [leaf(var) for var in eqn.invars]
        if not any(one is not None for one in inside):
            continue
        if eqn.params.get("name") == _MARK:
            continue
        functions = called_functions(eqn)
        passed = {index for _, taken in functions for index in taken}
        found.update(one for index, one in enumerate(inside) if one is not None and index not in passed)
        outputs = []
        for function, taken in functions:
            arguments = {var: inside[index] for index, var in taken.items() if inside[index] is not None}
            inner, returned = _follow(function, arguments)
            found |= inner
            outputs.append(returned)
        for index, var in enumerate(eqn.outvars):
            same = {one[index] for one in outputs if len(one) == len(eqn.outvars)}
            if len(same) == 1 and (one := same.pop()) is not None:
                known[var] = one  # handed on as it was
            else:
                found |= same - {None}
    return found, [leaf(var) for var in jaxpr.outvars]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)
