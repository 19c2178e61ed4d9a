"""Two low-rank matrices spread over a kernel and multiplied with it, and the gradient of this product."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.transforms.base import wide

SPREADS = ("block", "cyclic")


def spread_product(
    spread: str,
    kernel: Float[Array, "d k"],
    rows: Float[Array, "d r"],
    columns: Float[Array, "r k"],
    *,
    split: bool = False,
) -> Float[Array, "d k"]:
    """`(rows x 1) ⊙ W0 ⊙ (1 x columns)`, in the wide dtype.

    W0 is cut into groups and the factors are broadcast over them, so that no other large matrix is formed. The gradient
    is written by hand: JAX's own would form several large matrices, and keep some of them from the forward pass. The
    product has therefore no forward-mode derivative.

    Args:
        spread: "block" or "cyclic".
        kernel: W0.
        rows: a scale for each input and group of outputs.
        columns: a scale for each group of inputs and output.
        split: whether the kernel is split over several devices. If so, the gradient is computed in another way.
    """
    return _product(spread, split, kernel, rows, columns)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(spread: str, split: bool, kernel: Array, rows: Array, columns: Array) -> Array:
    w, a, b = _in_groups(spread, kernel, rows, columns)
    return (a * w * b).reshape(kernel.shape)


def _in_groups(spread: str, kernel: Array, rows: Array, columns: Array) -> tuple[Array, Array, Array]:
    """W0, rows and columns, reshaped to four axes, so that they can be multiplied entry by entry.

    Axis p is the group of an input, and axis i is the input's place in the group. Axis q is the group of an output, and
    axis j is the output's place in the group.
    """
    (d, k), r = kernel.shape, rows.shape[1]
    w = kernel.astype(wide(kernel, rows, columns))
    if spread == "block":  # the axes are p, i, q, j
        return w.reshape(r, d // r, r, k // r), rows.reshape(r, d // r, r, 1), columns.reshape(r, 1, r, k // r)
    # The axes are i, p, j, q.
    return w.reshape(d // r, r, k // r, r), rows.reshape(d // r, r, 1, r), columns.reshape(1, r, k // r, r)


def _keep(spread: str, split: bool, kernel: Array, rows: Array, columns: Array) -> tuple[Array, tuple]:
    return _product(spread, split, kernel, rows, columns), (kernel, rows, columns)


def _pull_back(spread: str, split: bool, kept: tuple, gradient: Array) -> tuple[Array, Array, Array]:
    """The gradients of kernel, rows and columns. XLA drops those that are not used.

    If the kernel is split, each device has some of the blocks, and sums within blocks would be gathered from all
    devices. So the sums are written as products with matrices of zeros and ones. Devices then add up their parts, as
    they do for LoRA's gradients. This takes 2dkr operations.
    """
    kernel, rows, columns = kept
    w, a, b = _in_groups(spread, kernel, rows, columns)
    g = gradient.reshape(w.shape)
    # Products with vectors read `g w` once. Sums of `g w a` and of `g w b` took longer at every rank.
    names, row, column = ("piqj", "piq", "pqj") if spread == "block" else ("ipjq", "ipq", "pjq")
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    d_rows = product(f"{names},{column}->{row}", g * w, b.squeeze(names.index("i")))
    d_columns = product(f"{names},{row}->{column}", g * w, a.squeeze(names.index("j")))
    if split and spread == "block":
        (d, r), k = rows.shape, columns.shape[1]
        outputs, inputs = (jnp.repeat(jnp.eye(r, dtype=w.dtype), size // r, axis=0) for size in (k, d))
        d_rows = product("dk,kr->dr", (g * w * b).reshape(d, k), outputs)
        d_columns = product("dr,dk->rk", inputs, (g * w * a).reshape(d, k))
    d_kernel = (g * a * b).reshape(kernel.shape).astype(kernel.dtype)
    return d_kernel, d_rows.reshape(rows.shape), d_columns.reshape(columns.shape)


_product.defvjp(_keep, _pull_back)
