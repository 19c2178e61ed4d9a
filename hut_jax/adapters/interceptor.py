"""The one place where factors meet a running module.

Factors live in a Flax variable collection, `adapter`, whose tree mirrors the modules' paths. The interceptor
holds no state of the model's: a dense layer whose scope has factors runs with its transformed kernel. Being
an ordinary variable collection, factors pass through `nn.remat`, `jit` and `vmap` as they are, and through
`nn.scan` where it is given an axis for them (`variable_axes={"params": 0, "adapter": 0}`).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.parallel.activations import ANY, shared_out
from hut_jax.transforms.base import Transform, wide

COLLECTION = "adapter"

_APPLY_ARGUMENTS = ("rngs", "mutable", "capture_intermediates")
"""What `model.apply` takes for itself."""


class Place(NamedTuple):
    """What the interceptor must know of a targeted layer: what to do there, and its kernel's input axes."""

    transform: Transform
    inputs: int


def interceptor(
    places: Mapping[Path, Place],
    used: set[Path],
    *,
    drop: bool = False,
    ids: jax.Array | None = None,
    shards: int = 1,
) -> Callable[[Callable[..., Any], tuple, dict, nn.module.InterceptorContext], Any]:
    """An interceptor for `flax.linen.intercept_methods` that runs the modules at the given paths adapted.

    Args:
        places: each targeted module's path.
        used: to which the path of each module that ran adapted is added.
        drop: whether dropout of the transformations' own acts; it draws from the rng "dropout".
        ids: for each row of the batch, which of the factor sets stacked on the factors' first axis is its own.
        shards: into how many parts of equal size the devices share out the batch's rows.

    Raises:
        UserError: when the model runs, a targeted module is no `nn.Dense` or `nn.DenseGeneral`, its factors
            do not reach it, or its input's first axis is not that of `ids`.
    """

    def intercept(next_fun, args, kwargs, context):
        module = context.module
        path = () if module.scope is None else module.scope.path
        if path not in places or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        place = places[path]
        _check(module, path, place.inputs)
        used.add(path)
        x = jnp.asarray(args[0] if args else kwargs["inputs"])
        if ids is not None and (x.ndim < 2 or x.shape[0] != ids.shape[0]):
            raise UserError(
                f"{show(path)} sees {list(x.shape)}, whose first axis is not the {ids.shape[0]} rows of adapter_ids; "
                "exclude it, or run a batch for each adapter"
            )
        key = module.make_rng("dropout") if drop and place.transform.random else None
        return _run(place, module, x, key, ids, shards)

    return intercept


def dropout_acts(model: nn.Module, method: Any, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether this call of the model is one in which dropout acts.

    Raises:
        UserError: it is, and there is no rng for it.
    """
    given = "dropout" in (kwargs.get("rngs") or {})
    function = method if callable(method) else getattr(type(model), method or "__call__")
    own = {name: value for name, value in kwargs.items() if name not in _APPLY_ARGUMENTS}
    call = inspect.signature(function).bind(*((model, *args) if not inspect.ismethod(function) else args), **own)
    call.apply_defaults()
    for name, acts in (("deterministic", False), ("train", True), ("training", True)):
        if name in call.arguments and call.arguments[name] is not None:
            if bool(call.arguments[name]) is not acts:
                return False
            if not given:
                raise UserError('the adapter has dropout, which acts here: give it rngs={"dropout": key}')
            return True
    return given


def _run(place: Place, module: nn.Module, x: Any, key: jax.Array | None, ids: jax.Array | None, shards: int) -> Any:
    """The module's output for x, by the module's own code on a kernel and bias that the transformation gives."""
    variables = module.variables
    params = dict(variables["params"])
    factors = {name: leaf.astype(wide(leaf)) for name, leaf in variables[COLLECTION].items()}
    kernel, bias = params["kernel"], params.get("bias")
    inputs, outputs = kernel.shape[: place.inputs], kernel.shape[place.inputs :]
    matrix, vector = kernel.reshape(math.prod(inputs), -1), None if bias is None else bias.reshape(-1)

    # A transformation sees inputs as vectors [d], whichever axes of x the module reads them from.
    bare: Any = module.clone(parent=None, name=None)
    if isinstance(module, nn.DenseGeneral):
        last = tuple(range(-len(inputs), 0))
        axes = (module.axis,) if isinstance(module.axis, int) else module.axis
        x = jnp.moveaxis(x, sorted(axis % x.ndim for axis in axes), last)  # as the module does: in their own order
        bare = bare.clone(axis=last)
    x = x.reshape(*x.shape[: x.ndim - len(inputs)], -1)

    def dense(x, kernel_2d, bias_1d):
        changed = {"kernel": kernel_2d.reshape(kernel.shape)}
        if bias_1d is not None:
            changed["bias"] = bias_1d.reshape(params["bias"].shape)
        layer = bare.clone(use_bias=bias_1d is not None)
        y = cast(jax.Array, layer.apply({"params": changed}, x.reshape(*x.shape[:-1], *inputs)))
        return y.reshape(*y.shape[: y.ndim - len(outputs)], -1)

    def forward(key, matrix, x, factors):
        return place.transform.forward(dense, x, matrix, vector, factors, key)

    rows = x.shape[0] if x.ndim > 1 else 1
    if ids is None and shards > 1 and place.transform.forms_kernel and rows % shards == 0:
        # A kernel for each part: its gradient becomes the factors' on the part's own device, and theirs is what is
        # summed over devices. With one kernel for all parts it would be that of the kernel, which is far larger.
        def own(leaf: jax.Array) -> jax.Array:
            return shared_out(jnp.broadcast_to(leaf, (shards, *leaf.shape)), *(ANY,) * leaf.ndim)

        parts = x.reshape(shards, -1, *x.shape[1:])
        y = jax.vmap(partial(forward, key))(own(matrix), parts, jax.tree.map(own, factors))
        y = y.reshape(-1, *y.shape[2:])
    elif ids is None:
        y = forward(key, matrix, x, factors)
    else:
        keys = None if key is None else jax.random.split(key, ids.shape[0])
        rows = jax.tree.map(lambda leaf: _rows(leaf, ids), factors)
        y = jax.vmap(forward, in_axes=(0, None, 0, 0))(keys, matrix, x, rows)
    return y.reshape(*y.shape[:-1], *outputs)


def _rows(leaf: jax.Array, ids: jax.Array) -> jax.Array:
    """The factors of each row. Under jit an id that no set has cannot be refused, and gives NaN, not another set."""
    ids = jnp.where(ids < 0, leaf.shape[0], ids)
    return leaf.at[ids].get(mode="fill", fill_value=jnp.nan)


def _check(module: nn.Module, path: Path, inputs: int) -> None:
    where = show(path)
    if not isinstance(module, nn.Dense | nn.DenseGeneral):
        raise UserError(
            f"{where} is a {type(module).__name__}: only nn.Dense and nn.DenseGeneral can run with factors; "
            "merge them, adapter.merge(params, factors), and run the model plainly, or exclude the path"
        )
    if COLLECTION not in module.variables:
        raise UserError(
            f"the factors of {where} do not reach it: give the nn.scan or nn.vmap around it an axis for them, "
            f'variable_axes={{"params": 0, "{COLLECTION}": 0}}, or run the model on adapter.merge(params, factors)'
        )
    if isinstance(module, nn.DenseGeneral):
        if module.batch_dims:
            raise UserError(f"{where} is a DenseGeneral with batch_dims, which has no one kernel to transform")
        actual = 1 if isinstance(module.axis, int) else len(module.axis)
        if actual != inputs:
            raise UserError(
                f"{where} has {actual} input axes, and its factors were laid out for {inputs}; say so in layout="
            )
