"""The readings of HUT's formula: how two low-rank matrices become the numbers that multiply a kernel, entry by entry.

    spread       entry (i, j) of the multiplier
    block        M_A[i, j // (k/r)] * M_B[i // (d/r), j]
    cyclic       M_A[i, j mod r] * M_B[i mod r, j]
    kronecker    M_A[i, j // (k/r)] * M_B[i mod r, j]
    sum          (1 + sum_s a[i, s]) * (1 + sum_s b[s, j])
    product      (1 + a[i, 0]) * (1 + b[0, j]) + sum_{s > 0} a[i, s] * b[s, j]

The first three differ only in which inputs, and which outputs, form a group: a run of neighbours, or every r-th.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.transforms.base import wide
from hut_jax.transforms.low_rank import product

GROUPED = ("block", "cyclic", "kronecker")
"""The readings that cut inputs and outputs into r groups each, so that r divides d and k."""
SPREADS = (*GROUPED, "sum", "product")

_AXES = {"block": "piqj", "cyclic": "ipjq", "kronecker": "ipqj", "sum": "piqj"}
"""The axes of a kernel that is cut into groups.

p is the group of an input, and i is the input's place in the group. q is the group of an output, and j is the output's
place in the group.
"""


def around_identity(
    spread: str, a: Float[Array, "d r"], b: Float[Array, "r k"]
) -> tuple[Float[Array, "d s"], Float[Array, "s k"]]:
    """The two matrices that `spread_product` takes, from stored deviations: s is r, or 1 for `sum`."""
    if spread == "sum":
        return 1 + a.sum(1, keepdims=True), 1 + b.sum(0, keepdims=True)
    if spread == "product":  # so that their product is all ones if a[:, 0] and b are zero
        first = jnp.eye(1, a.shape[1], dtype=a.dtype)
        return a + first, b + first.T
    return 1 + a, 1 + b


def spread_product(
    spread: str,
    kernel: Float[Array, "d k"],
    rows: Float[Array, "d r"],
    columns: Float[Array, "r k"],
    *,
    split: bool = False,
) -> Float[Array, "d k"]:
    """The kernel times the multiplier that rows and columns make, in the wide dtype.

    For `product` the multiplier is `rows @ columns`. For the others the kernel is cut into groups and the factors are
    broadcast over them, so that no other large matrix is formed. The gradient is written by hand: JAX's own would form
    several large matrices, and keep some of them from the forward pass. The result has therefore no forward-mode
    derivative.

    Args:
        spread: one of `SPREADS`.
        kernel: W0.
        rows: a scale for each input and group of outputs.
        columns: a scale for each group of inputs and output.
        split: whether the kernel is split over several devices. If so, the gradient is computed in another way.
    """
    return _product(spread, split, kernel, rows, columns)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(spread: str, split: bool, kernel: Array, rows: Array, columns: Array) -> Array:
    if spread == "product":
        return kernel.astype(wide(kernel, rows, columns)) * product(rows, columns)
    w, a, b = _in_groups(spread, kernel, rows, columns)
    return (a * w * b).reshape(kernel.shape)


def _in_groups(spread: str, kernel: Array, rows: Array, columns: Array) -> tuple[Array, Array, Array]:
    """W0, rows and columns, reshaped to the four axes, so that they can be multiplied entry by entry."""
    (d, k), r = kernel.shape, rows.shape[1]
    sizes = {"p": r, "i": d // r, "q": r, "j": k // r}
    w, a, b = ([sizes[axis] if axis != shared else 1 for axis in _AXES[spread]] for shared in ("", "j", "i"))
    return kernel.astype(wide(kernel, rows, columns)).reshape(w), rows.reshape(a), columns.reshape(b)


def _keep(spread: str, split: bool, kernel: Array, rows: Array, columns: Array) -> tuple[Array, tuple]:
    return _product(spread, split, kernel, rows, columns), (kernel, rows, columns)


def _pull_back(spread: str, split: bool, kept: tuple, gradient: Array) -> tuple[Array, Array, Array]:
    """The gradients of kernel, rows and columns. XLA drops those that are not used."""
    kernel, rows, columns = kept
    if spread == "product":
        scaled = gradient * kernel.astype(gradient.dtype)
        d_rows, d_columns = product(scaled, columns.T), product(rows.T, scaled)
        d_kernel = gradient * product(rows, columns)
    else:
        w, a, b = _in_groups(spread, kernel, rows, columns)
        g = gradient.reshape(w.shape)
        d_rows, d_columns = (_sums_of_split if split else _sums)(spread, g * w, a, b)
        d_kernel = g * a * b
    return _like(kernel, d_kernel), _like(rows, d_rows), _like(columns, d_columns)


def _like(array: Array, gradient: Array) -> Array:
    return gradient.reshape(array.shape).astype(array.dtype)


def _sums(spread: str, scaled: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """The gradients of rows and columns: sums of `g w b` over each group's outputs, and of `g w a` over its inputs.

    They are written as products with vectors, which read `g w` once. Sums took longer at every rank.
    """
    axes = _AXES[spread]
    row, column = axes.replace("j", ""), axes.replace("i", "")
    einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    d_rows = einsum(f"{axes},{column}->{row}", scaled, b.squeeze(axes.index("i")))
    return d_rows, einsum(f"{axes},{row}->{column}", scaled, a.squeeze(axes.index("j")))


def _sums_of_split(spread: str, scaled: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """The same for a kernel that is split, of which each device has some of the groups.

    Sums within groups of neighbours would be gathered from all devices. So the sums are written as products with
    matrices of zeros and ones. Devices then add up their parts, as they do for LoRA's gradients. This takes 2dkr
    operations.
    """
    if spread == "cyclic":  # no groups of neighbours
        return _sums(spread, scaled, a, b)
    axes = _AXES[spread]
    size = dict(zip(axes, scaled.shape, strict=True))
    r, d, k = size["p"], size["p"] * size["i"], size["q"] * size["j"]
    one_hot = jnp.eye(r, dtype=scaled.dtype)
    outputs = jnp.repeat(one_hot, size["j"], axis=0)
    inputs = jnp.repeat(one_hot, size["i"], axis=0) if axes[0] == "p" else jnp.tile(one_hot, (size["i"], 1))
    return (
        product((scaled * b).reshape(d, k), outputs),
        product(inputs.T, (scaled * a).reshape(d, k)),
    )


_product.defvjp(_keep, _pull_back)
