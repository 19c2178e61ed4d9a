"""Arguments as users give them: the checks, the boxes of `flax.linen.meta` around leaves, and trees of other kinds."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict, freeze
from jaxtyping import Array, Int, PyTree

from hut_jax.core.any_tree import fill_any, flatten_any, is_nnx, is_plain
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, flatten, unflatten

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
    boxed = {
        path: box.replace_boxed(flat[path]) if nn.meta.is_axis_metadata(box) else flat[path]
        for path, box in flatten(like).items()
    }
    tree = unflatten(boxed)
    return freeze(tree) if isinstance(like, FrozenDict) else tree


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
    return params


def check_key(key: Any) -> None:
    """Check that this may be a key for random numbers.

    Raises:
        UserError: it is a tree or a model, as where the arguments are swapped.
    """
    if isinstance(key, Mapping | nn.Module) or is_nnx(key):
        raise UserError(f"key= is of type {_name(key)}: the order is adapter.init(key, params)")


def check_model(model: Any, params: Any) -> None:
    """Check that this is a Linen model.

    Raises:
        UserError: it is not.
    """
    if isinstance(model, nn.Module):
        if is_nnx(params):
            raise UserError(f"params= is of NNX's type {_name(params)}, and {_name(model)} is a Linen model; {_TREE}")
        if isinstance(params, Mapping) and set(params) == {"params"} and isinstance(params["params"], Mapping):
            raise UserError('params= has the one entry "params": give the parameters alone, variables["params"]')
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
