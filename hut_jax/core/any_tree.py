"""Parameters in trees of any kind, such as an NNX model, its state, or a module of Equinox: by path, and back."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax.core import FrozenDict

from hut_jax.core.trees import Path

FACTORS = "adapter_factors"
"""The attribute in which an adapted NNX module holds its factors. It is no part of their paths."""


def is_plain(tree: Any) -> bool:
    """Whether this is a tree of dicts with names for keys, as Linen's parameters are, and without NNX's Variables."""
    if not isinstance(tree, dict | FrozenDict):
        return False

    def part(value: Any) -> bool:
        return is_plain(value) if isinstance(value, dict | FrozenDict) else not _is_variable(value)

    return all(isinstance(name, str) for name in tree) and all(map(part, tree.values()))


def names_of(path: Sequence[Any]) -> Path:
    """The names of one of JAX's own paths, without the attribute that holds the factors in an NNX module."""
    names = (str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
    return tuple(name for name in names if name != FACTORS)


def flatten_any(tree: Any) -> dict[Path, Any]:
    """The arrays of a tree by path. Of an NNX model or state these are its `nnx.Param`s, or else all its Variables."""
    leaves = jax.tree.leaves_with_path(_state(tree), is_leaf=_is_variable)
    if any(_is_param(leaf) for _, leaf in leaves):
        leaves = [(path, leaf) for path, leaf in leaves if _is_param(leaf) or not _is_variable(leaf)]
    values = {names_of(path): value_of(leaf) for path, leaf in leaves}
    return {path: value for path, value in values.items() if hasattr(value, "shape") and hasattr(value, "dtype")}


def fill_any(tree: Any, flat: Mapping[Path, Any]) -> Any:
    """The tree with these arrays at their paths. All else is as it was, and an NNX model is a copy."""
    state = _state(tree)
    leaves, structure = jax.tree.flatten_with_path(state, is_leaf=_is_variable)
    filled = []
    for path, leaf in leaves:
        old, new = value_of(leaf), flat.get(names_of(path))
        if new is None or new is old or (_is_variable(leaf) and not _is_param(leaf)):
            filled.append(leaf)
        else:
            filled.append(leaf.copy(new) if _is_variable(leaf) else new)
    new_state = jax.tree.unflatten(structure, filled)
    if state is tree:
        return new_state
    nnx = sys.modules["flax.nnx"]
    model = nnx.clone(tree)
    nnx.update(model, new_state)
    return model


def value_of(leaf: Any) -> Any:
    """What an NNX Variable holds; any other leaf itself."""
    if not _is_variable(leaf):
        return leaf
    value = leaf.get_raw_value()
    return value[...] if leaf.get_metadata().get("ref") else value


def _state(tree: Any) -> Any:
    """The parameters of an NNX model; any other tree itself."""
    nnx = sys.modules.get("flax.nnx")
    return nnx.state(tree, nnx.Param) if nnx is not None and isinstance(tree, nnx.Module) else tree


def _is_variable(leaf: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # if it was never imported, nothing is of its types
    return nnx is not None and isinstance(leaf, nnx.Variable)


def _is_param(leaf: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(leaf, nnx.Param)


def layouts_of(tree: Any) -> dict[Path, str]:
    """The layouts that the types of an NNX model's modules tell, by the kernels' paths; none for any other tree."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(tree, nnx.Module):
        return {}
    from hut_jax.core.nnx_layouts import told_layouts  # imports flax.nnx, which Linen does not need

    return told_layouts(tree)


def is_nnx(value: Any) -> bool:
    """Whether this is a model or a state of NNX."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module | nnx.State)
