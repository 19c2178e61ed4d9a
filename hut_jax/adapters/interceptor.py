"""The interceptor, the only place where factors are applied to a running module.

Factors live in a Flax variable collection, `adapter`. Its tree mirrors the modules' paths. When the model calls a dense
layer at a site, the interceptor runs the layer on the transformed kernel. The module itself is not changed.

The collection is an ordinary one. So a model with factors works under `nn.remat`, `jax.jit` and `jax.vmap` without a
change. An `nn.scan` or `nn.vmap` needs an axis for the factors: `variable_axes={"params": 0, "adapter": 0}`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from hut_jax.adapters.layout import Layout
from hut_jax.adapters.site import Site
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path, show
from hut_jax.parallel.activations import ANY, split_batch, splits_kernels
from hut_jax.transforms.base import Layer, Transform, wide

COLLECTION = "adapter"

_APPLY_ARGUMENTS = ("rngs", "mutable", "capture_intermediates")
"""What `model.apply` takes for itself."""


def interceptor(
    sites: Mapping[Path, Site],
    used: set[Path],
    *,
    drop: bool = False,
    ids: jax.Array | None = None,
    shards: int = 1,
) -> Callable[[Callable[..., Any], tuple, dict, nn.module.InterceptorContext], Any]:
    """An interceptor for `flax.linen.intercept_methods` that runs the dense layers of these sites adapted.

    Args:
        sites: dense layers, by path.
        used: a set, to which the path of each layer that ran adapted is added.
        drop: whether the transformations' own dropout acts; it draws from the rng "dropout".
        ids: the index of each row's factor set, if sets are stacked on the factors' first axis.
        shards: the number of equal parts into which devices split the batch's rows.

    Raises:
        UserError: when the model runs, a module at a site is neither `nn.Dense` nor `nn.DenseGeneral`, its factors
            do not reach it, or its input's first axis is not that of `ids`.
    """

    def intercept(next_fun, args, kwargs, context):
        module = context.module
        path = () if module.scope is None else module.scope.path
        if path not in sites or context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        site = sites[path]
        assert site.layout is not None
        _check(module, path, len(site.layout.inputs))
        used.add(path)
        x = jnp.asarray(args[0] if args else kwargs["inputs"])
        if ids is not None and (x.ndim < 2 or x.shape[0] != ids.shape[0]):
            raise UserError(
                f"the input of {show(path)} is {list(x.shape)}, whose first axis is not the {ids.shape[0]} rows of "
                "adapter_ids; exclude it, or run a batch for each adapter"
            )
        key = module.make_rng("dropout") if drop and site.transform.random else None
        return _run(site.transform, site.layout, module, x, key, ids, shards)

    return intercept


def dropout_acts(model: nn.Module, method: Any, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether dropout acts in this call of the model.

    Raises:
        UserError: it does, and there is no rng for it.
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


def _run(
    transform: Transform,
    layout: Layout,
    module: nn.Module,
    x: Any,
    key: jax.Array | None,
    ids: jax.Array | None,
    shards: int,
) -> Any:
    """Run the module's own code on x, with the transformed kernel and bias."""
    variables = module.variables
    params = dict(variables["params"])
    factors = {name: leaf.astype(wide(leaf)) for name, leaf in variables[COLLECTION].items()}
    kernel, bias = params["kernel"], params.get("bias")
    matrix, vector = kernel.reshape(layout.d, layout.k), None if bias is None else bias.reshape(layout.k)

    # A transformation sees inputs as vectors [d], whichever axes of x the module reads them from.
    bare: Any = module.clone(parent=None, name=None)
    if isinstance(module, nn.DenseGeneral):
        last = tuple(range(-len(layout.inputs), 0))
        axes = (module.axis,) if isinstance(module.axis, int) else module.axis
        x = jnp.moveaxis(x, sorted(axis % x.ndim for axis in axes), last)  # in ascending order, as the module does
        bare = bare.clone(axis=last)
    x = x.reshape(*x.shape[: x.ndim - len(layout.inputs)], -1)

    def dense(x, matrix, vector):
        changed = {"kernel": matrix.reshape(kernel.shape)}
        if vector is not None:
            changed["bias"] = vector.reshape(params["bias"].shape)
        layer = bare.clone(use_bias=vector is not None)
        y = cast(jax.Array, layer.apply({"params": changed}, x.reshape(*x.shape[:-1], *layout.inputs)))
        return y.reshape(*y.shape[: y.ndim - len(layout.outputs)], -1)

    def forward(key, matrix, x, factors):
        return transform.forward(Layer(dense, matrix, vector, splits_kernels()), x, factors, key)

    rows = x.shape[0] if x.ndim > 1 else 1
    if ids is None and shards > 1 and transform.forms_kernel and rows % shards == 0:
        # Each part forms its own W. The gradient of W then becomes the factors' gradient on the part's own device, and
        # devices sum the factors' gradients. With one W for all parts they would sum gradients of W, which are far
        # larger.
        def own(leaf: jax.Array) -> jax.Array:
            return split_batch(jnp.broadcast_to(leaf, (shards, *leaf.shape)), *(ANY,) * leaf.ndim)

        parts = x.reshape(shards, -1, *x.shape[1:])
        y = jax.vmap(partial(forward, key))(own(matrix), parts, jax.tree.map(own, factors))
        y = y.reshape(-1, *y.shape[2:])
    elif ids is None:
        y = forward(key, matrix, x, factors)
    else:
        keys = None if key is None else jax.random.split(key, ids.shape[0])
        rows = jax.tree.map(lambda leaf: _rows(leaf, ids), factors)
        y = jax.vmap(forward, in_axes=(0, None, 0, 0))(keys, matrix, x, rows)
    return y.reshape(*y.shape[:-1], *layout.outputs)


def _rows(leaf: jax.Array, ids: jax.Array) -> jax.Array:
    """The factors of each row.

    Under `jit` the values of the indices are not known, so an index out of range is no error. It gives NaN.
    """
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
