"""The dense layers of Flax in the forms of `Transform.forward`, which save memory or work on activations.

They are exactly `nnx.Linear`, `nnx.LinearGeneral` and `nnx.Einsum`, with Flax's own product. A form runs the layer's
own code with another kernel and bias. Any other call reads the kernel, `U(W0)`, like any other module's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jaxtyping import Array

from hut_jax.core.nnx_layouts import layer_letters, parts_of
from hut_jax.core.nnx_walk import Held
from hut_jax.nnx.modules import at, bare, dropout_key
from hut_jax.parallel.activations import splits_kernels
from hut_jax.transforms.base import Layer


class View(NamedTuple):
    """A call of a dense layer, seen as one from vectors `[d]` to vectors `[k]`.

    Attributes:
        x: the input, `[*batch, d]`.
        whole: from `[*batch, d]` to the layer's own input.
        flat: from the layer's output to `[*batch, k]`.
        back: the inverse of `flat`.
    """

    x: Array
    whole: Callable[[Array], Array]
    flat: Callable[[Array], Array]
    back: Callable[[Array], Array]


def run(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call an adapted dense layer."""
    base, (spec,) = module.adapter_base, module.adapter_specs
    site, flat, factors = at(module, spec)
    layout = site.layout
    assert layout is not None
    rest = {name: value for name, value in kwargs.items() if name != "inputs"}
    plain = not args[1:] and all(value is None for value in rest.values()) and not layout.stack
    view = _VIEWS[base](module, jnp.asarray(args[0] if args else kwargs["inputs"])) if plain else None
    if view is None:
        return base.__call__(module, *args, **kwargs)
    bias = None if spec.bias is None else flat[spec.bias]

    def dense(x: Array, matrix: Array, vector: Array | None) -> Array:
        values: dict[str, Any] = {"kernel": _like(module, "kernel", layout.kernel(matrix)), "use_bias": False}
        values["bias"] = None
        if vector is not None and bias is not None:
            values |= {"bias": _like(module, "bias", layout.bias(vector, bias.shape)), "use_bias": True}
        return view.flat(bare(module, values)(view.whole(x)))

    layer = Layer(
        dense, layout.matrix(flat[spec.kernel]), None if bias is None else layout.vector(bias), splits_kernels()
    )
    return view.back(spec.transform.forward(layer, view.x, factors, dropout_key(module)))


def has_form(held: Held, letters: str | None) -> bool:
    """Whether the module that holds this kernel is called in a form.

    Args:
        held: the kernel.
        letters: the layout of the site.
    """
    module: Any = held.module
    if type(module) not in _VIEWS or held.within != ("kernel",) or module.promote_dtype is not dtypes.promote_dtype:
        return False
    if isinstance(module, nnx.Linear) and module.dot_general is not jax.lax.dot_general:
        return False
    if isinstance(module, nnx.LinearGeneral) and (
        module.batch_axis or module.dot_general is not None or module.dot_general_cls is not None
    ):
        return False
    if isinstance(module, nnx.Einsum) and module.einsum_op is not jnp.einsum:
        return False
    own = layer_letters(module)
    return own is not None and letters is not None and letters.lstrip("l") == own


def _linear(module: Any, x: Array) -> View:
    same = _same
    return View(x, same, same, same)


def _linear_general(module: Any, x: Array) -> View:
    axes, n = sorted(axis % x.ndim for axis in module.axis), len(module.axis)  # in ascending order, as the module does
    last, sizes, outputs = range(-n, 0), module.in_features, module.out_features
    moved = jnp.moveaxis(x, axes, last)
    return View(
        moved.reshape(*moved.shape[: moved.ndim - n], -1),
        lambda flat: jnp.moveaxis(flat.reshape(*flat.shape[:-1], *sizes), last, axes),
        lambda y: y.reshape(*y.shape[: y.ndim - len(outputs)], -1),
        lambda y: y.reshape(*y.shape[:-1], *outputs),
    )


def _einsum_view(module: Any, x: Array) -> View | None:
    parts = parts_of(module.einsum_str)
    if parts is None:
        return None
    own, kernel, result = parts
    spare = iter("".join(chr(code) for code in range(0x391, 0x3C9)))  # letters that no equation has
    dots = "".join(next(spare) for _ in range(x.ndim - len(own.replace("...", "")))) if "..." in own else ""
    own, result = own.replace("...", dots), result.replace("...", dots)
    inputs = [c for c in kernel if c in own]
    outputs = [c for c in kernel if c in result]
    batch = [c for c in result if c not in outputs]
    if sorted([*batch, *inputs]) != sorted(own) or len(own) != x.ndim:  # a sum over another axis of x
        return None
    sizes = dict(zip(kernel, module.kernel.shape, strict=True))
    to_flat, to_y = [own.index(c) for c in [*batch, *inputs]], [result.index(c) for c in [*batch, *outputs]]
    moved = x.transpose(to_flat)
    if any(sizes[c] != x.shape[own.index(c)] for c in inputs):
        return None
    return View(
        moved.reshape(*moved.shape[: len(batch)], -1),
        lambda flat: flat.reshape(*flat.shape[:-1], *(sizes[c] for c in inputs)).transpose(_inverse(to_flat)),
        lambda y: y.transpose(to_y).reshape(*(y.shape[axis] for axis in to_y[: len(batch)]), -1),
        lambda y: y.reshape(*y.shape[:-1], *(sizes[c] for c in outputs)).transpose(_inverse(to_y)),
    )


_VIEWS: dict[type, Callable[[Any, Array], View | None]] = {
    nnx.Linear: _linear,
    nnx.LinearGeneral: _linear_general,
    nnx.Einsum: _einsum_view,
}


def _like(module: Any, name: str, value: Array) -> nnx.Variable:
    old = vars(module)[name]
    return type(old).from_metadata(value, {**old.get_metadata(), "ref": False})


def _inverse(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def _same(x: Array) -> Array:
    return x
