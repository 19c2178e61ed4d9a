"""Adapted modules: the same modules, of classes in which a targeted attribute is read as `U(W0)`.

Such a class derives from the module's own, and only the class of an instance is changed. The base's Variable stays
where it was, in `vars(module)`, so NNX finds it at its own path. Whatever reads the attribute, the module's own code or
another module's, gets `U(W0)`. So one rule serves every module. The dense layers of Flax have activation forms, too, as
under the interceptor (`forms.py`).
"""

import functools
import types
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from hut_jax.adapters.layout import Layout
from hut_jax.adapters.site import Site
from hut_jax.core.any_tree import FACTORS, value_of
from hut_jax.core.errors import UserError
from hut_jax.core.nnx_walk import rebuilt
from hut_jax.core.trees import Path, show
from hut_jax.transforms import Transform

MARKS: ContextVar[Callable[[Array], Array] | None] = ContextVar("marks", default=None)
"""In a trace that looks for reads past a module (`checking.py`): what every adapted read does to the base's value."""

DROPOUT = "adapter_dropout"
"""The attribute in which a module holds the random numbers of a transformation's dropout."""


@dataclass(frozen=True)
class Spec:
    """A site as a module sees it; hashable, since classes are made for it.

    Attributes:
        transform: the site's.
        path: of the site in the model, for messages.
        kernel: the place of the kernel or the parameter within the module.
        bias: the place of the bias, if there is one.
        letters: the layout of the kernel, with stacked layers; None for a transformation of whole leaves.
        factors: where the factors lie in the module's tree of factors.
        ranks: the names of the factors, and the number of axes of each, without those of stacked layers.
        form: whether the module's call is one of `forms.FORMS`.
    """

    transform: Transform
    path: Path
    kernel: Path
    bias: Path | None
    letters: str | None
    factors: Path
    ranks: tuple[tuple[str, int], ...]
    form: bool = False


class Adapted:
    """The mark of an adapted module's class, and what it knows."""

    __slots__ = ()  # an instance's class can only be changed to one of the same layout

    adapter_specs: ClassVar[tuple[Spec, ...]]
    adapter_base: ClassVar[type[nnx.Module]]


def _set_key(self: Any, key: Any, value: Any) -> None:
    """As the base's `_graph_node_set_key`. A Variable that is there is the base's own, not the one that is read."""
    current = vars(self).get(str(key))
    if isinstance(current, nnx.Variable) and isinstance(value, nnx.Variable):
        current.update_from_state(value)
    else:
        self.adapter_base._graph_node_set_key(self, key, value)


def _pop_key(self: Any, key: Any) -> Any:
    """As the base's `_graph_node_pop_key`."""
    value = vars(self)[str(key)]
    delattr(self, str(key))
    return value


class Read:
    """An attribute that is read adapted. What is set is the base's."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None or self._name not in vars(module):
            raise AttributeError(f"{(owner or type(module)).__name__} has no attribute {self._name!r}")
        return read(module, self._name)

    def __set__(self, module: Any, value: Any) -> None:
        vars(module)[self._name] = value

    def __delete__(self, module: Any) -> None:
        try:
            del vars(module)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None


def read(module: Any, name: str) -> Any:
    """The value of a module's attribute, with `U(W0)` in the place of each adapted parameter."""
    changed: dict[Path, Array] = {}
    for spec in module.adapter_specs:
        if name == spec.kernel[0] or (spec.bias is not None and name == spec.bias[0]):
            if spec.transform.random and dropout_acts(module):
                raise UserError(
                    f"{show(spec.path)} is read as a parameter, where the transformation's dropout cannot act: use "
                    "dropout=0, exclude the path, or switch dropout off with model.eval()"
                )
            # Behind a barrier, so that the module is compiled as for any parameter, and zero factors change no bit.
            changed.update(jax.lax.optimization_barrier(merged(module, spec)))
    return rebuilt(vars(module)[name], lambda path, old: _read_only(old, changed.get(path)), (name,))


def merged(module: Any, spec: Spec) -> dict[Path, Array]:
    """The merged kernel and bias of one site, by their places within the module."""
    site, flat, own = at(module, spec)
    return site.merge(flat, own)


def at(module: Any, spec: Spec) -> tuple[Site, dict[Path, Array], dict[str, Array]]:
    """A site within a module as it is now: perhaps without the axes of stacked layers, which a scan has taken away.

    Returns:
        The site, with places for paths; its parameters; its factors.

    Raises:
        UserError: the factors lack an axis that the kernel has, or have one more.
    """
    flat = {place: value_of(held_at(module, place)) for place in (spec.kernel, spec.bias) if place is not None}
    if (mark := MARKS.get()) is not None:
        flat = {place: mark(value) for place, value in flat.items()}
    kernel = flat[spec.kernel]
    letters, layout = spec.letters, None
    if letters is not None:
        taken = len(letters) - kernel.ndim
        layout = Layout(letters.replace("l", "", max(taken, 0)), kernel.shape)
    stacked = 0 if layout is None else len(layout.stack)
    factors = {
        (*spec.factors, name): value_of(held_at(module, (FACTORS, *spec.factors, name))) for name, _ in spec.ranks
    }
    for name, rank in spec.ranks:
        found = factors[*spec.factors, name].ndim
        wanted = rank + stacked if layout is not None else kernel.ndim
        if found != wanted:
            raise UserError(
                f"the kernel of {show(spec.path)} has {kernel.ndim} axes here and its factor {name} {found}: a scan or "
                "vmap takes an axis of one alone; with nnx.StateAxes give hut_jax.nnx.Factors the axis of nnx.Param"
            )
    site = Site(
        spec.factors,
        spec.transform,
        kernel.shape,
        {name: () for name, _ in spec.ranks},
        layout,
        kernel=spec.kernel,
        bias=spec.bias,
    )
    return site, flat, site.own(factors)


def dropout_acts(module: Any) -> bool:
    """Whether the transformation's own dropout acts in this module."""
    dropout = vars(module).get(DROPOUT)
    return dropout is not None and not dropout.deterministic


def dropout_key(module: Any) -> Array | None:
    """A key for the transformation's own dropout, if there is one and it acts."""
    return vars(module)[DROPOUT].rngs() if dropout_acts(module) else None


@functools.cache
def adapted_class(base: type[nnx.Module], specs: tuple[Spec, ...], call: Callable[..., Any] | None) -> type[nnx.Module]:
    """The class for modules of class `base` with these sites.

    Args:
        base: the modules' own class.
        specs: their sites.
        call: runs the module in the place of its `__call__`, given the module and the arguments; None: its own.
    """
    names = {place[0] for spec in specs for place in (spec.kernel, spec.bias) if place is not None}

    def fill(body: dict[str, Any]) -> None:
        body.update({name: Read(name) for name in names})
        body.update(adapter_specs=specs, adapter_base=base, __module__=base.__module__, __doc__=base.__doc__)
        body.update(_graph_node_set_key=_set_key, _graph_node_pop_key=_pop_key)
        body["__qualname__"] = f"Adapted{base.__qualname__}"
        if call is not None:
            own: Any = base.__call__

            @functools.wraps(own)
            def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
                return call(self, *args, **kwargs)

            body["__call__"] = __call__

    with warnings.catch_warnings():  # of the base's annotations, about which Flax has warned when that was defined
        warnings.simplefilter("ignore", DeprecationWarning)
        keywords = {"pytree": getattr(base, "_pytree__is_pytree", True)}
        return types.new_class(f"Adapted{base.__name__}", (base, Adapted), keywords, fill)


def bare(module: nnx.Module, values: dict[str, Any]) -> nnx.Module:
    """A module of the same attributes and of its own class, with these values for some."""
    base = module.adapter_base if isinstance(module, Adapted) else type(module)
    twin = object.__new__(base)
    vars(twin).update(vars(module))
    for name in (FACTORS, DROPOUT):
        vars(twin).pop(name, None)
    vars(twin).update(values)
    return twin


def held_at(module: Any, place: Path) -> Any:
    """What lies at this place within the module, as it is kept."""
    value = vars(module)[place[0]]
    for name in place[1:]:
        if isinstance(value, dict):
            value = next(child for key, child in value.items() if str(key) == name)
        else:
            value = value[int(name)]
    return value


def _read_only(old: nnx.Variable, value: Array | None) -> nnx.Variable:
    """A Variable like `old` with another value, which refuses to be written; `old` itself without one."""
    if value is None:
        return old
    metadata = {**old.get_metadata(), "ref": False}
    return _read_only_class(type(old)).from_metadata(jnp.asarray(value), metadata)


@functools.cache
def _read_only_class(base: type[nnx.Variable]) -> Any:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise UserError(
            "this parameter is read adapted, as U(W0), and cannot be written here; write the base's own with "
            "nnx.update(model, state), or merge the adapter"
        )

    body = dict.fromkeys(("set_value", "set_raw_value", "copy_from", "update_from_state"), refuse)
    return types.new_class(base.__name__, (base,), exec_body=lambda own: own.update(body, __module__=base.__module__))
