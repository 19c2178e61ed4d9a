"""Matrix products in bf16 that a CPU's matrix units compute.

Some CPUs have such units (Intel's AMX). XLA has code for them where the matrices are bf16 and their product is fp32. If
the product is bf16, it first converts both matrices to fp32, which takes several times as long. So on these CPUs the
product here is fp32, and then rounded. So are the products of its gradients; for these the gradient of an fp32 product
is first rounded to bf16. `benchmarks.products` shows what each takes. On other CPUs, where that made training slower
(docs/speed.md), on other devices, and in other dtypes these functions are JAX's own.

In bf16 on a CPU with matrix units they have no derivatives in forward mode (`jax.jvp`).
"""

import functools
import math
import string
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from hut_jax.core import processor

_NAME = "product"

dots_saveable = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(_NAME),
)
"""A policy for `jax.checkpoint`: save the products that have no batch axes, and what `saved_and_rounded` names.

JAX's own policy does not see the products made here.
"""


def dot_general(
    lhs: Float[Array, "..."],
    rhs: Float[Array, "..."],
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Float[Array, "..."]:
    """`jax.lax.dot_general`, for the field `dot_general` of a Flax layer.

    Args:
        lhs: the first matrix.
        rhs: the second matrix.
        dimension_numbers: the axes that are summed, and those of the batch, as for `jax.lax.dot_general`.
        precision: as for `jax.lax.dot_general`. In bf16 a CPU with matrix units sums in fp32 whatever it is.
        preferred_element_type: the dtype of the product; None: that of the matrices.
    """
    if not _widens(lhs, rhs):
        return jax.lax.dot_general(
            lhs, rhs, dimension_numbers, precision=precision, preferred_element_type=preferred_element_type
        )
    jax.eval_shape(lambda a, b: jax.lax.dot_general(a, b, dimension_numbers), lhs, rhs)  # checks the sizes
    (lhs_summed, rhs_summed), (lhs_batch, rhs_batch) = dimension_numbers
    of_lhs = string.ascii_letters[: lhs.ndim]
    of_rhs = list(string.ascii_letters[lhs.ndim : lhs.ndim + rhs.ndim])
    for left, right in zip((*lhs_summed, *lhs_batch), (*rhs_summed, *rhs_batch), strict=True):
        of_rhs[right] = of_lhs[left]
    batch = "".join(of_lhs[axis] for axis in lhs_batch)
    free = [axis for axis in of_lhs if axis not in of_rhs] + [axis for axis in of_rhs if axis not in of_lhs]
    equation = f"{of_lhs},{''.join(of_rhs)}->{batch}{''.join(free)}"
    y = _summed(equation, lhs, rhs)
    # Saved in fp32: a scan stacks what is saved, and for each layer XLA would convert the whole of a stack in bf16.
    y = y if batch else checkpoint_name(y, _NAME)
    return y.astype(preferred_element_type or lhs.dtype)


def saved_and_rounded(y: Float[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """`y` in another dtype. In bf16 on a CPU `dots_saveable` saves `y`, in fp32, before it is rounded.

    Otherwise the backward pass would compute `y` again from saved products, which a CPU reads and rounds slowly. Those
    products are then saved only if their own gradients need them.
    """
    saves = jax.default_backend() == "cpu" and jnp.dtype(dtype) == jnp.bfloat16
    return (checkpoint_name(y, _NAME) if saves else y).astype(dtype)


def einsum(
    equation: str, a: Float[Array, "..."], b: Float[Array, "..."], preferred_element_type: Any = None
) -> Float[Array, "..."]:
    """`jnp.einsum` of two arrays, without an ellipsis.

    An array has each axis once, and all of its axes are in the other array or in the result.
    """
    if not _widens(a, b):
        return jnp.einsum(equation, a, b, preferred_element_type=preferred_element_type)
    return _summed(equation, a, b).astype(preferred_element_type or a.dtype)


def on_matrix_units() -> bool:
    """Whether products in bf16 are computed by the matrix units of a CPU."""
    return jax.default_backend() == "cpu" and processor.has_matrix_units()


def matmul(x: Float[Array, "*batch n"], matrix: Float[Array, "n m"]) -> Float[Array, "*batch m"]:
    """`x @ matrix`."""
    return dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))


def _widens(a: Array, b: Array) -> bool:
    """Whether the product is computed in fp32 and rounded."""
    return a.dtype == b.dtype == jnp.bfloat16 and on_matrix_units()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(equation: str, a: Array, b: Array) -> Array:
    """The product of two bf16 arrays, in fp32."""
    axis = _axis_of_a_single_row(equation, a.shape, b.shape)
    if axis is None:
        return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
    of_a, of_y = equation.split(",")[0], equation.split("->")[1]
    twice = jnp.concatenate([a, a], axis)
    y = jnp.einsum(equation, twice, b, preferred_element_type=jnp.float32)
    return jax.lax.slice_in_dim(y, 0, 1, axis=of_y.index(of_a[axis]))


def _axis_of_a_single_row(equation: str, shape: tuple[int, ...], shape_of_b: tuple[int, ...]) -> int | None:
    """An axis along which the first array has its only row, if the second has several columns.

    XLA does not use the matrix units for a vector, so that two rows take less time than one. Within `jax.vmap` a row
    counts as the only one of its batch.
    """
    factors, of_y = equation.split("->")
    of_a, of_b = factors.split(",")
    own = [axis for axis, letter in enumerate(of_a) if letter in of_y and letter not in of_b]
    columns = [size for size, letter in zip(shape_of_b, of_b, strict=True) if letter in of_y and letter not in of_a]
    single = own and math.prod(shape[axis] for axis in own) == 1 and math.prod(columns) > 1
    return own[0] if single else None


def _forward(equation: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _summed(equation, a, b), (a, b)


def _backward(equation: str, given: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    a, b = given
    factors, of_y = equation.split("->")
    of_a, of_b = factors.split(",")
    gradient = gradient.astype(jnp.bfloat16)
    d_a = _summed(f"{of_y},{of_b}->{of_a}", gradient, b)
    d_b = _summed(f"{of_y},{of_a}->{of_b}", gradient, a)
    return d_a.astype(jnp.bfloat16), d_b.astype(jnp.bfloat16)


_summed.defvjp(_forward, _backward)
