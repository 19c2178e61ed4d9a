"""FLOPs of any JAX function, counted from shapes only: nothing is allocated, compiled or run.

The function is traced, operations that its results do not depend on are dropped, and the rest is counted much as XLA
counts it. A product of matrices `[m, k]` and `[k, n]` is 2mnk operations. Floating-point arithmetic is one for each
element of its result. A reduction is one for each element that it reads. Transcendental functions are counted
separately. Copies, comparisons, selections and all operations on integers (those of random generators too) count
nothing.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

ARITHMETIC = frozenset({
    "add", "add_any", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp", "floor", "ceil",
    "round", "square",
})  # fmt: skip
TRANSCENDENTAL = frozenset({
    "exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "tan", "sin", "cos", "asin", "acos", "atan", "sinh",
    "cosh", "asinh", "acosh", "atanh", "atan2", "pow", "sqrt", "rsqrt", "cbrt", "erf",
})  # fmt: skip
POLYNOMIALS = {"erfc": 60, "erf_inv": 37, "lgamma": 52, "digamma": 73}
"""Transcendental functions that XLA computes by polynomials -> the arithmetic of each. GELU is erfc times x."""
REDUCTIONS = frozenset({
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "cumsum", "cumprod", "cummax",
    "cummin", "cumlogsumexp",
})  # fmt: skip


class Flops(NamedTuple):
    """The operations of a function.

    Attributes:
        flops: floating-point additions, multiplications and the like.
        transcendentals: exponentials, roots, hyperbolic tangents and the like.
    """

    flops: int
    transcendentals: int = 0

    def plus(self, other: "Flops", times: int = 1) -> "Flops":
        """The sum of this and `times` the other."""
        return Flops(self.flops + times * other.flops, self.transcendentals + times * other.transcendentals)


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Flops:
    """The operations of one call of the function.

    The body of a `scan` counts as often as it runs, and recomputation by `remat` counts too. For a `cond`, the branch
    with the most operations counts. The body of a `while` loop counts once, as in XLA's own count, since shapes do not
    tell how often it runs.

    Args:
        function: as for `jax.make_jaxpr`.
        *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
        **kwargs: the same by keyword.
    """
    jaxpr = jax.make_jaxpr(function)(*args, **kwargs).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(needed)


def xla_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Flops:
    """XLA's own count for the function compiled for the default device.

    It includes comparisons and operations on integers. A loop's body counts once, so scanned layers are undercounted.
    Products that a backend leaves to a library, as on GPUs, are missing.

    Args:
        function: as for `jax.jit`.
        *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
        **kwargs: the same by keyword.
    """
    analysis: Any = jax.jit(function).lower(*args, **kwargs).compile().cost_analysis()
    return Flops(round(analysis.get("flops", 0)), round(analysis.get("transcendentals", 0)))


def _of_jaxpr(jaxpr: Jaxpr) -> Flops:
    total = Flops(0)
    for equation in jaxpr.eqns:
        total = total.plus(_of_equation(equation))
    return total


def _of_equation(equation: JaxprEqn) -> Flops:
    name, inputs = equation.primitive.name, _avals(equation.invars)
    result = _avals(equation.outvars)[0] if equation.outvars else None
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return Flops(2 * _size(result) * math.prod(inputs[0].shape[axis] for axis in contracted))
    if name.startswith("dot_product_attention"):
        # cuDNN's: two products of queries, keys and values, five for the gradients, and an exponential for each score.
        (batch, length, heads, width), keys = inputs[0].shape, inputs[1].shape[1]
        scores = batch * heads * length * keys
        return Flops((5 if "bwd" in name else 2) * 2 * scores * width, scores)
    if name == "conv_general_dilated":
        return Flops(2 * _products_of_convolution(equation))
    if name in REDUCTIONS:
        return Flops(_floats(inputs[0]))
    if name.startswith("reduce_window"):
        return Flops(_floats(result) * math.prod(equation.params["window_dimensions"]))
    if name in ("scatter-add", "scatter-mul"):
        return Flops(_floats(inputs[2]))
    if name in ARITHMETIC:
        return Flops(_floats(result))
    if name == "integer_pow":
        return Flops(_floats(result) * _products_of_power(equation.params["y"]))
    if name in TRANSCENDENTAL or name in POLYNOMIALS:
        return Flops(_floats(result) * POLYNOMIALS.get(name, 0), _floats(result))
    bodies = [_of_jaxpr(getattr(body, "jaxpr", body)) for body in jaxprs_in_params(equation.params)]
    if name == "cond":
        return max(bodies)
    total, times = Flops(0), equation.params["length"] if name == "scan" else 1
    for body in bodies:
        total = total.plus(body, times)
    return total


def _avals(variables: Iterable[Any]) -> list[Any]:
    """The shapes and dtypes of the variables."""
    return [variable.aval for variable in variables]


def _size(aval: Any) -> int:
    return math.prod(aval.shape)


def _floats(aval: Any) -> int:
    """The number of elements if they are floating-point, else 0."""
    return _size(aval) if jnp.issubdtype(aval.dtype, jnp.inexact) else 0


def _products_of_power(exponent: int) -> int:
    """The multiplications of repeated squaring, and a division if the exponent is negative."""
    positive = abs(exponent)
    return positive.bit_length() + positive.bit_count() - 2 + (exponent < 0)


def _products_of_convolution(equation: JaxprEqn) -> int:
    """The products of a kernel's entry and an input's. Padding and the holes of a dilated input count nothing."""
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel, result = (aval.shape for aval in _avals([*equation.invars, *equation.outvars]))
    _, channels, *space = numbers.rhs_spec
    count = kernel[channels] * result[numbers.out_spec[0]] * result[numbers.out_spec[1]]
    for i, axis in enumerate(space):
        out = np.arange(result[numbers.out_spec[2 + i]])[:, None] * params["window_strides"][i]
        at = out + np.arange(kernel[axis]) * params["rhs_dilation"][i] - params["padding"][i][0]
        hole = params["lhs_dilation"][i]
        last = (image[numbers.lhs_spec[2 + i]] - 1) * hole
        count *= int(np.sum((at >= 0) & (at <= last) & (at % hole == 0)))
    return count
