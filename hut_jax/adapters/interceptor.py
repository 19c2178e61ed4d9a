"""The interceptor: it runs Flax's own dense layers with their factors, in a form that forms no W or keeps none.

Factors lie in a Flax variable collection, `adapter`, beside the kernel that they change: a `Here` under the kernel's
name, in the same module. So they go wherever Flax carries that module's variables: through `nn.remat`, `nn.jit`,
`nn.share_scope`, `jax.vmap`. An `nn.scan` or `nn.vmap` carries them if it has an axis for them:
`variable_axes={"params": 0, "adapter": 0}`.

What runs here equals the plain layer on the merged kernel. Only kernels that nobody else reads may be here
(`hut_jax.adapters.tracing`); the others are merged into the parameters before the model runs.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from hut_jax.adapters.layout import Layout
from hut_jax.adapters.site import Site
from hut_jax.core.errors import UserError
from hut_jax.core.products import dot_general
from hut_jax.core.trees import show
from hut_jax.parallel.activations import ANY, split_batch, splits_kernels
from hut_jax.transforms.base import Factors, Layer

COLLECTION = "adapter"

MARK = "hut_jax_site_"
"""The name of the function that stands for an adapted layer in an abstract trace; its site's index follows, and
the number of axes of the kernel and of the input."""

_APPLY_ARGUMENTS = ("rngs", "mutable", "capture_intermediates")
"""What `model.apply` takes for itself."""


class ChangedUnderWay(Exception):
    """A module that ran adapted in the trace does not run so now."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Here:
    """What a module finds in the collection beside its kernel.

    All but the arrays is static and has a hash, so that a function that Flax has traced for one adapter (`nn.jit`) is
    not used for another.

    Attributes:
        factors: the factors, for stacked layers with the layers' axes first.
        ids: the index of each row's factor set, if sets are stacked behind the layers' axes; else None.
        site: the site, without its path.
        index: the site's place among the adapter's.
        drop: whether the transformation's own dropout acts; it draws from the rng "dropout".
        shards: the number of equal parts into which devices split the batch's rows.
        mark: whether to leave a mark in a trace instead of running the layer adapted.
    """

    factors: Factors
    ids: jax.Array | None
    site: "Static" = field(metadata={"static": True})
    index: int = field(metadata={"static": True})
    drop: bool = field(default=False, metadata={"static": True})
    shards: int = field(default=1, metadata={"static": True})
    mark: bool = field(default=False, metadata={"static": True})


class Static(NamedTuple):
    """What is static of a site."""

    transform: Any
    layout: Layout
    factors: tuple[tuple[str, tuple[int, ...]], ...]
    has_bias: bool
    shown: str

    @classmethod
    def of(cls, site: Site) -> "Static":
        """This site's."""
        assert site.layout is not None
        stack = len(site.layout.stack)
        shapes = tuple((name, shape[stack:]) for name, shape in sorted(site.factors.items()))
        return cls(site.transform, site.layout.layer, shapes, site.has_bias, show(site.path))


def intercept(next_fun: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
    """Run a dense layer adapted, if its factors are here. An interceptor for `flax.linen.intercept_methods`.

    Raises:
        UserError: the input's first axis is not that of the factors' `ids`.
        ChangedUnderWay: the layer cannot run adapted, though the trace said that it can.
    """
    module = context.module
    if type(module) not in (nn.Dense, nn.DenseGeneral, nn.Einsum) or context.method_name != "__call__":
        return next_fun(*args, **kwargs)
    here = None if module.scope is None else module.get_variable(COLLECTION, "kernel")
    if not isinstance(here, Here):
        return next_fun(*args, **kwargs)
    call = _Call.of(module, here, args, kwargs)
    if here.mark:
        return next_fun(*args, **kwargs) if call is None else _marked(call, here)
    if call is None:
        raise ChangedUnderWay(here.site.shown)
    x = call.x
    if here.ids is not None and (x.ndim < 2 or x.shape[0] != here.ids.shape[0]):
        raise UserError(
            f"the input of {here.site.shown} is {list(x.shape)}, whose first axis is not the {here.ids.shape[0]} rows "
            "of adapter_ids; exclude it, or run a batch for each adapter"
        )
    key = _key(module, here) if here.drop and here.site.transform.random else None
    return _run(call, here, key)


def _key(module: nn.Module, here: Here) -> jax.Array:
    """The key for the layer's dropout."""
    try:
        return module.make_rng("dropout")
    except flax.errors.InvalidRngError:
        raise UserError(
            f'the adapter\'s dropout at {here.site.shown} has no rng "dropout" here; an nn.scan or nn.vmap around it '
            'needs split_rngs={"dropout": True}'
        ) from None


def others_intercept() -> bool:
    """Whether interceptors other than this one are at work. They must see each layer run once, and plainly."""
    return any(one is not intercept for one in getattr(nn.module, "_global_interceptor_stack", ()))


def dropout_acts(model: nn.Module, method: Any, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether dropout acts in this call of the model.

    Raises:
        UserError: it does, and there is no rng for it.
    """
    rngs = kwargs.get("rngs")
    # One key alone is Flax's for every rng.
    given = rngs is not None and (not isinstance(rngs, Mapping) or "dropout" in rngs)
    function = method if callable(method) else getattr(type(model), method or "__call__")
    own = {name: value for name, value in kwargs.items() if name not in _APPLY_ARGUMENTS}
    call = inspect.signature(function).bind(*((model, *args) if not inspect.ismethod(function) else args), **own)
    call.apply_defaults()
    for name, acts in (("deterministic", False), ("train", True), ("training", True)):
        if name in call.arguments and call.arguments[name] is not None:
            try:
                value = bool(call.arguments[name])
            except jax.errors.TracerBoolConversionError:
                raise UserError(
                    f"the adapter has dropout, and {name}= decides whether it acts, so its value must be known: "
                    "make it static (static_argnames in jax.jit), not traced"
                ) from None
            if value is not acts:
                return False
            if not given:
                raise UserError('the adapter has dropout, which acts here: give it rngs={"dropout": key}')
            return True
    return given


@dataclass(frozen=True)
class _Call:
    """A call of a dense layer, as one of a layer with inputs `[..., d]`.

    Attributes:
        module: the layer, unbound, which contracts the last axes of its input.
        kernel: its kernel.
        bias: its bias, or None.
        x: its input, with the contracted axes last.
        given: its input as it was given.
        plain: the layer's own call, of its parameters and its input.
    """

    module: nn.Module
    kernel: jax.Array
    bias: jax.Array | None
    x: jax.Array
    given: Any
    plain: Callable[[Mapping[str, Any], Any], jax.Array]

    @classmethod
    def of(cls, module: Any, here: Here, args: tuple, kwargs: dict) -> "_Call | None":
        """This call, or None if it must run plainly."""
        site, layout = here.site, here.site.layout
        if others_intercept() or module.promote_dtype is not nn.dtypes.promote_dtype:
            return None
        dot = getattr(module, "dot_general", None)
        if isinstance(dot, partial):
            dot = dot.func  # with another precision, or another dtype for the result
        if dot not in (None, jax.lax.dot_general, dot_general) or getattr(module, "dot_general_cls", None) is not None:
            return None
        if getattr(module, "preferred_element_type", None) is not None:
            return None
        given = dict(zip(("inputs", "einsum_str"), args, strict=False)) | kwargs
        params = module.variables.get("params", {})
        if (
            "inputs" not in given
            or "kernel" not in params
            or not site.has_bias is module.use_bias is ("bias" in params)
        ):
            return None
        kernel = jnp.asarray(nn.meta.unbox(params["kernel"]))
        bias = jnp.asarray(nn.meta.unbox(params["bias"])) if site.has_bias else None
        sets = () if here.ids is None else (None,)
        factors = tuple((name, leaf.shape[len(sets) :]) for name, leaf in sorted(here.factors.items()))
        if kernel.shape != layout.shape or factors != site.factors:
            return None
        bare, x = module.clone(parent=None, name=None), jnp.asarray(given["inputs"])
        if given.get("einsum_str") is not None:
            bare = bare.clone(einsum_str=given["einsum_str"])
        turned = _inputs_last(bare, x, layout)
        if turned is None:
            return None
        # The layer itself would do so first. What is done to x before the layer is then done in the same precision.
        x = nn.dtypes.promote_dtype(turned[1], kernel, bias, dtype=module.dtype)[0]
        return cls(turned[0], kernel, bias, x, given["inputs"], partial(_apply, bare))

    def dense(self, layout: Layout, x: jax.Array, matrix: jax.Array, vector: jax.Array | None) -> jax.Array:
        """Run the layer's own code on inputs `[..., d]` and with this kernel and bias; the outputs are `[..., k]`."""
        changed = {"kernel": layout.kernel(matrix)}
        if vector is not None:
            assert self.bias is not None
            changed["bias"] = layout.bias(vector, self.bias.shape)
        layer = cast(Any, self.module).clone(use_bias=vector is not None)
        y = _apply(layer, changed, x.reshape(*x.shape[:-1], *layout.inputs))
        return y.reshape(*y.shape[: y.ndim - len(layout.outputs)], layout.k)


def _apply(layer: nn.Module, params: Mapping[str, Any], x: Any) -> jax.Array:
    return cast(jax.Array, layer.apply({"params": params}, x))


def _inputs_last(bare: Any, x: jax.Array, layout: Layout) -> tuple[Any, jax.Array] | None:
    """A layer that contracts the last axes of its input in the kernel's order, and the input for it.

    None if the layer's own output would not have the outputs last, or if the layout is not the layer's.
    """
    inputs = len(layout.inputs)
    if isinstance(bare, nn.Einsum):
        einsum = _outputs_last(bare.einsum_str or "", layout)
        return None if einsum is None else (bare.clone(einsum_str=einsum), x)
    if layout.letters != "i" * inputs + "o" * len(layout.outputs):
        return None
    if isinstance(bare, nn.Dense):
        return (bare, x) if len(layout.letters) == 2 else None
    axes = (bare.axis,) if isinstance(bare.axis, int) else tuple(bare.axis)
    if bare.batch_dims or len(axes) != inputs:
        return None
    last = tuple(range(-inputs, 0))
    x = jnp.moveaxis(x, sorted(axis % x.ndim for axis in axes), last)  # in ascending order, as the module does
    return bare.clone(axis=last), x


def _outputs_last(einsum: str, layout: Layout) -> str | None:
    """The same einsum for any number of axes before the contracted ones; None if it is not of this form."""
    parts = einsum.replace(" ", "").replace("->", ",").split(",")
    if len(parts) != 3 or "." in parts[1]:
        return None
    x, kernel, y = parts
    contracted = "".join(name for name in kernel if name in x and name not in y)
    outputs = "".join(name for name in kernel if name in y and name not in x)
    letters = "".join("i" if name in contracted else "o" for name in kernel)
    before = x.removesuffix(contracted)
    distinct = all(len(set(names)) == len(names) for names in (x.replace("...", ""), kernel, y.replace("...", "")))
    if not distinct or letters != layout.letters or x != before + contracted or y != before + outputs:
        return None
    if len(contracted) + len(outputs) != len(kernel) or not contracted or not outputs:
        return None
    return f"...{contracted},{kernel}->...{outputs}"


def _marked(call: _Call, here: Here) -> jax.Array:
    """The plain layer as one function, by whose name and arguments a trace tells what was read here."""

    def run(kernel, bias, factors, x):
        return call.plain({"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}, x)

    given = jnp.asarray(call.given)
    run.__name__ = run.__qualname__ = f"{MARK}{here.index}_{call.kernel.ndim}_{given.ndim}"
    return jax.jit(run)(call.kernel, call.bias, here.factors, given)


def _run(call: _Call, here: Here, key: jax.Array | None) -> jax.Array:
    """The layer's output, with the transformed kernel and bias."""
    transform, layout, ids, x = here.site.transform, here.site.layout, here.ids, call.x
    matrix, vector = layout.matrix(call.kernel), None if call.bias is None else layout.vector(call.bias)
    # A transformation sees inputs as vectors [d].
    x = x.reshape(*x.shape[: x.ndim - len(layout.inputs)], layout.d)
    dense = partial(call.dense, layout)

    def forward(key, matrix, x, factors):
        return transform.forward(Layer(dense, matrix, vector, splits_kernels()), x, factors, key)

    rows = x.shape[0] if x.ndim > 1 else 1
    if ids is None and here.shards > 1 and transform.forms_kernel and rows % here.shards == 0:
        # Each part forms its own W. The gradient of W then becomes the factors' gradient on the part's own device, and
        # devices sum the factors' gradients. With one W for all parts they would sum gradients of W, which are far
        # larger.
        def own(leaf: jax.Array) -> jax.Array:
            return split_batch(jnp.broadcast_to(leaf, (here.shards, *leaf.shape)), *(ANY,) * leaf.ndim)

        parts = x.reshape(here.shards, rows // here.shards, *x.shape[1:])
        y = jax.vmap(partial(forward, key))(own(matrix), parts, jax.tree.map(own, here.factors))
        y = y.reshape(rows, *y.shape[2:])
    elif ids is None:
        y = forward(key, matrix, x, here.factors)
    else:
        keys = None if key is None else jax.random.split(key, ids.shape[0])
        rows = jax.tree.map(lambda leaf: _rows(leaf, ids), here.factors)
        y = jax.vmap(forward, in_axes=(0, None, 0, 0))(keys, matrix, x, rows)
    return y.reshape(*y.shape[:-1], *layout.outputs)


def _rows(leaf: jax.Array, ids: jax.Array) -> jax.Array:
    """The factors of each row.

    Under `jit` the values of the indices are not known, so an index out of range is no error. It gives NaN.
    """
    ids = jnp.where(ids < 0, leaf.shape[0], ids)
    return leaf.at[ids].get(mode="fill", fill_value=jnp.nan)
