"""Modules of Flax that read parameters past the module that owns them, and so would not read them adapted.

`nnx.WeightNorm` and `nnx.SpectralNorm` take them from the layer's state, and the bridge's `ToNNX` gives the dicts of
its own attributes to a Linen model. Such a module runs its own code on a copy in which all parameters below it are
merged.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from hut_jax.core.any_tree import FACTORS
from hut_jax.core.nnx_walk import modules, rebuilt
from hut_jax.core.trees import Path
from hut_jax.nnx.merging import merged_copy
from hut_jax.nnx.modules import DROPOUT

_PAST = (nnx.WeightNorm, nnx.SpectralNorm, nnx.bridge.ToNNX)


class Caller(NamedTuple):
    """A module that is called otherwise, and how."""

    module: nnx.Module
    run: Callable[..., Any]


def callers(model: nnx.Module, owners: Mapping[int, nnx.Module]) -> dict[int, Caller]:
    """The modules that read a parameter of the owners past them, by identity."""
    found = {}
    for _, module in modules(model):
        if isinstance(module, _PAST) and any(id(inner) in owners for _, inner in modules(module)):
            found[id(module)] = Caller(module, _run_merged)
    return found


def _run_merged(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the module's own code on a merged copy, and keep what it changed of its other attributes."""
    twin: Any = merged_copy(module)
    before = dict(vars(twin))
    out = twin(*args, **kwargs)
    for name, value in vars(twin).items():
        if value is not before.get(name) and not name.startswith("_pytree__"):
            setattr(module, name, nnx.data(_with_base(module, name, value)))
    return out


def _with_base(module: Any, name: str, value: Any) -> Any:
    """An attribute's new value, with the base's own parameters in the place of merged ones."""
    old = vars(module).get(name)
    own: dict[Path, nnx.Variable] = {}
    if name not in (FACTORS, DROPOUT):
        rebuilt(old, lambda path, variable: own.setdefault(path, variable))
    return rebuilt(value, lambda path, new: own.get(path, new) if isinstance(new, nnx.Param) else new)
