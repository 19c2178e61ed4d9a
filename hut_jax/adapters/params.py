"""Arguments as users give them: the checks, the boxes of `flax.linen.meta` around leaves, and trees of other kinds."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Int, PyTree

from hut_jax.core.any_tree import fill_any, flatten_any, is_nnx, is_plain
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, flatten, show, split

_TREE = 'params= are a tree of arrays, such as model.init(key, x)["params"]'


def opened(params: Any) -> dict[Path, Any]:
    """The parameters by path, out of their boxes.

    Raises:
        UserError: this is no tree of arrays.
    """
    tree = checked(params)
    return {path: unboxed(leaf) for path, leaf in (flatten if is_plain(tree) else flatten_any)(tree).items()}


def closed(flat: Mapping[Path, Any], like: Any) -> Any:
    """The inverse of `opened`: a tree of the kind of `like`, with its boxes."""
    if not is_plain(like):
        return fill_any(like, flat)
    return _filled(like, (), flat)


def _filled(like: Any, path: Path, flat: Mapping[Path, Any]) -> Any:
    if isinstance(like, FrozenDict):
        return FrozenDict({name: _filled(own, (*path, name), flat) for name, own in like.items()})
    if isinstance(like, dict):
        tree = copy.copy(like)  # of the same type, and with what is empty
        tree.update({name: _filled(own, (*path, name), flat) for name, own in like.items()})
        return tree
    return like.replace_boxed(flat[path]) if nn.meta.is_axis_metadata(like) else flat[path]


def untie(params: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """The parameters with kernels of their own where a tied table was read.

    Args:
        params: arrays or shapes.
        pairs: of a kernel's path and the path of the table that it is a transposed copy of. A kernel that is there
            already stays as it is.

    Raises:
        UserError: there is no such table, or the parameters are not a tree of dicts.
    """
    if not pairs:
        return params
    if not is_plain(params):
        raise UserError(f"params= is of type {_name(params)}, and untied= is for trees of dicts, as Linen's are")
    flat = opened(params)
    for kernel, table in pairs:
        leaf = flat.get(split(table))
        if split(kernel) in flat:
            continue
        if leaf is None or len(leaf.shape) != 2:
            tables = [show(path) for path, own in flat.items() if len(getattr(own, "shape", ())) == 2]
            raise UserError(
                f"untied= at {kernel!r}: {table!r} is no matrix of the parameters; {nearest(table, tables)}"
            )
        shape_alone = isinstance(leaf, jax.ShapeDtypeStruct)
        own = jax.ShapeDtypeStruct(leaf.shape[::-1], leaf.dtype) if shape_alone else leaf.T
        params = _with(params, split(kernel), own)
    return params


def without(params: Any, path: Path) -> Any:
    """A tree of dicts without this leaf, and without what is empty then."""
    first, *rest = path
    kept = {name: own for name, own in params.items() if name != first}
    if rest and (below := without(params[first], tuple(rest))):
        kept[first] = below
    return FrozenDict(kept) if isinstance(params, FrozenDict) else kept


def _with(params: Any, path: Path, leaf: Any) -> Any:
    first, *rest = path
    below = _with(params.get(first, {}), tuple(rest), leaf) if rest else leaf
    if isinstance(params, FrozenDict):
        return FrozenDict({**params, first: below})
    tree = copy.copy(params)  # of the same type
    tree[first] = below
    return tree


def unboxed(leaf: Any) -> Any:
    """The leaf out of its box, without the sharding constraint that Flax adds to what a module reads."""
    while nn.meta.is_axis_metadata(leaf):
        leaf = leaf.unbox(apply_constraint=False) if isinstance(leaf, nn.Partitioned) else leaf.unbox()
    return leaf


def checked(params: Any) -> Any:
    """Check that these are parameters, a tree of arrays, and return them.

    Raises:
        UserError: they are not.
    """
    if isinstance(params, nn.Module) or (isinstance(params, type) and issubclass(params, nn.Module)):
        raise UserError(f"params= is a model, {_name(params)}, and not its parameters; {_TREE}")
    if isinstance(params, jax.Array):
        if jax.dtypes.issubdtype(params.dtype, jax.dtypes.prng_key):
            raise UserError("params= is a key: the order is adapter.init(key, params)")
        raise UserError(f"params= is one array; {_TREE}")
    if jax.tree_util.all_leaves([params]):
        raise UserError(f"params= is of type {_name(params)}; {_TREE}")
    if isinstance(params, Mapping) and isinstance(params.get("params"), Mapping) and len(params) > 1:
        others = [name for name, own in params.items() if name != "params" and isinstance(own, Mapping)]
        if len(others) == len(params) - 1:
            raise UserError(
                f'params= are all variables, "params" and {", ".join(map(repr, others))}: give variables["params"], '
                "and the others to apply as collections="
            )
    return params


def check_key(key: Any) -> None:
    """Check that this may be a key for random numbers.

    Raises:
        UserError: it is something else, as where the arguments are swapped.
    """
    if isinstance(key, Mapping | nn.Module) or is_nnx(key):
        raise UserError(f"key= is of type {_name(key)}: the order is adapter.init(key, params)")
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) or dtype == np.uint32):
        raise UserError(f"key= is of type {_name(key)}, and no key: give one, such as jax.random.key(0)")


def check_names(model: nn.Module, method: Any, ours: Mapping[str, Any]) -> None:
    """Check that what is given by name is not meant for an argument of the model's.

    Args:
        model: the model.
        method: as in `model.apply`.
        ours: the adapter's own arguments; None if not given.

    Raises:
        UserError: the model has an argument of such a name.
    """
    given = [name for name, value in ours.items() if value is not None]
    if not given:
        return
    function = method if callable(method) else getattr(type(model), method or "__call__", None)
    if function is None:
        return
    for name in inspect.signature(function).parameters.keys() & set(given):
        raise UserError(
            f"{name}= is an argument of adapter.apply and one of {_name(model)} too. Hide the model's: "
            f"method=lambda model, *args: model(*args), with {name}= of its own in that call if it needs one"
        )


def check_model(model: Any, params: Any) -> None:
    """Check that this is a Linen model.

    Raises:
        UserError: it is not.
    """
    if isinstance(model, nn.Module):
        if is_nnx(params):
            raise UserError(f"params= is of NNX's type {_name(params)}, and {_name(model)} is a Linen model; {_TREE}")
        if isinstance(params, Mapping) and isinstance(params.get("params"), Mapping):
            others = " (and the others as collections=)" if len(params) > 1 else ""
            raise UserError(f'params= has an entry "params": give the parameters alone, variables["params"]{others}')
        return
    order = "the order is adapter.apply(model, params, factors, *inputs)"
    if isinstance(model, Mapping) or isinstance(params, nn.Module):
        raise UserError(f"model= is of type {_name(model)}: {order}")
    if is_nnx(model):
        raise UserError(f"{_name(model)} is an NNX model: adapt it with hut_jax.nnx.adapt(model, adapter)")
    if isinstance(model, type):
        raise UserError(f"model= is the class {_name(model)}: give a model, {_name(model)}(...)")
    if isinstance(getattr(model, "module", None), nn.Module):
        raise UserError(f"{_name(model)} wraps a Linen model: give that, model.module, with its params")
    raise UserError(f"model= is of type {_name(model)}, and no Linen model; {order}")


def opened_factors(factors: PyTree[Array]) -> dict[Path, Array]:
    """The factors by path, out of their boxes.

    Raises:
        UserError: this is no tree of arrays.
    """
    if factors is None or jax.tree_util.all_leaves([factors]):
        raise UserError(f"factors= is of type {_name(factors)}; they are what adapter.init(key, params) gives")
    if not is_plain(factors):
        return flatten_any(factors)
    return {path: unboxed(leaf) for path, leaf in flatten(factors).items()}


def checked_ids(ids: Any, sets: int) -> Int[Array, " batch"]:
    """Check that the indices are whole numbers and, outside of `jit`, in range, and return them.

    Raises:
        UserError: they are not.
    """
    known = None if isinstance(ids, jax.core.Tracer) else np.asarray(ids)  # JAX would trace it under `jit`
    ids = jnp.asarray(ids)
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise UserError(
            f"adapter_ids are {ids.dtype}{list(ids.shape)}; one whole number for each row of the batch is expected"
        )
    if known is not None and len(known) and (known.min() < 0 or known.max() >= sets):
        raise UserError(f"adapter_ids go from {known.min()} to {known.max()}, and there are {sets} sets of factors")
    return ids


def _name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__
