import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.core import processor
from hut_jax.core.products import dot_general, dots_saveable, einsum, matmul, saved_and_rounded

ROUNDING = 2**-8  # the largest relative error of a number rounded to bf16, and a little more
IN_BF16 = r"bf16\[[^\]]*\] = dot_general"


def drawn(seed, *shape, dtype=jnp.bfloat16):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def exact(array):
    return np.asarray(array, np.float64)


def assert_rounded_once(got, want, of):
    """`got` is `want`, which sums products of about size 1, rounded to bf16; `of` is the number summed."""
    np.testing.assert_allclose(exact(got), want, rtol=ROUNDING, atol=1e-5 * of)


@pytest.mark.parametrize(
    ("lhs_shape", "rhs_shape", "numbers"),
    [
        ((3, 4), (4, 5), (((1,), (0,)), ((), ()))),
        ((4, 3), (5, 4), (((0,), (1,)), ((), ()))),
        ((2, 3, 4), (4, 5), (((2,), (0,)), ((), ()))),
        ((2, 3, 4), (4, 2, 5), (((2,), (0,)), ((0,), (1,)))),
        ((2, 3, 4, 5), (5, 6, 3, 2), (((3, 1), (0, 2)), ((0,), (3,)))),
        ((2, 3, 4, 5), (7, 3, 5, 2), (((3,), (2,)), ((1, 0), (1, 3)))),
        ((3,), (3,), (((0,), (0,)), ((), ()))),
        ((2, 3), (4,), (((), ()), ((), ()))),
    ],
)
def test_a_bf16_product_is_jaxs_own_on_any_axes(lhs_shape, rhs_shape, numbers):
    lhs, rhs = drawn(0, *lhs_shape), drawn(1, *rhs_shape)
    got = dot_general(lhs, rhs, numbers)
    plain = jax.lax.dot_general(lhs.astype(jnp.float32), rhs.astype(jnp.float32), numbers)
    assert (got.dtype, got.shape) == (jnp.bfloat16, plain.shape)
    assert_rounded_once(got, exact(plain), of=15)


@pytest.mark.parametrize("equation", ["ab,bc->ac", "ab,cb->ca", "abc,abd->acd", "bhqd,bkhd->bhqk"])
def test_gradients_of_a_bf16_product_are_rounded_once(equation):
    letters = dict(zip("abcdhkq", (3, 4, 5, 6, 2, 7, 8), strict=True))
    of_a, of_b, of_y = re.split(",|->", equation)
    a, b, cotangent = (drawn(seed, *(letters[name] for name in names)) for seed, names in enumerate((of_a, of_b, of_y)))
    y, pull = jax.vjp(lambda a, b: einsum(equation, a, b), a, b)
    assert_rounded_once(y, np.einsum(equation, exact(a), exact(b)), of=8)
    d_a, d_b = pull(cotangent)
    assert_rounded_once(d_a, np.einsum(f"{of_y},{of_b}->{of_a}", exact(cotangent), exact(b)), of=35)
    assert_rounded_once(d_b, np.einsum(f"{of_y},{of_a}->{of_b}", exact(cotangent), exact(a)), of=35)


def test_a_product_in_fp32_of_bf16_matrices_is_not_rounded():
    a, b = drawn(0, 9, 50), drawn(1, 50, 9)
    y = einsum("ab,bc->ac", a, b, preferred_element_type=jnp.float32)
    np.testing.assert_allclose(y, exact(a) @ exact(b), rtol=1e-5, atol=1e-5)
    assert (y.astype(jnp.bfloat16) != y).any()


def test_the_gradient_of_a_product_in_fp32_is_rounded_to_bf16_before_its_products():
    a, b, cotangent = drawn(0, 9, 50), drawn(1, 50, 9), drawn(2, 9, 9, dtype=jnp.float32)
    _, pull = jax.vjp(lambda a, b: einsum("ab,bc->ac", a, b, preferred_element_type=jnp.float32), a, b)
    d_a, d_b = pull(cotangent)
    rounded = exact(cotangent.astype(jnp.bfloat16))
    assert_rounded_once(d_a, rounded @ exact(b).T, of=9)
    assert_rounded_once(d_b, exact(a).T @ rounded, of=9)


def test_sizes_that_differ_are_refused_as_by_jax():
    with pytest.raises(TypeError, match="contracting dimensions to have the same shape"):
        matmul(drawn(0, 3, 4), drawn(1, 1, 5))


@pytest.mark.parametrize("dtypes", [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32), (jnp.float16,) * 2])
def test_in_other_dtypes_it_is_jaxs_own_function(dtypes):
    a, b = (drawn(seed, 5, 5, dtype=dtype) for seed, dtype in enumerate(dtypes))
    numbers = (((1,), (0,)), ((), ()))
    ours = jax.make_jaxpr(lambda a, b: dot_general(a, b, numbers, "highest", jnp.float32))(a, b)
    assert str(ours) == str(
        jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, numbers, "highest", jnp.float32))(a, b)
    )
    assert str(jax.make_jaxpr(lambda a, b: einsum("ab,bc->ac", a, b))(a, b)) == str(
        jax.make_jaxpr(lambda a, b: jnp.einsum("ab,bc->ac", a, b))(a, b)
    )


@pytest.mark.parametrize(
    ("where", "name", "value"), [(jax, "default_backend", "gpu"), (processor, "has_matrix_units", False)]
)
def test_other_devices_and_cpus_without_matrix_units_compute_jaxs_own_function(where, name, value, monkeypatch):
    monkeypatch.setattr(where, name, lambda: value)
    a, b = drawn(0, 1, 5), drawn(1, 5, 5)
    for ours, jaxs in (
        (lambda a, b: matmul(a, b), jnp.matmul),  # a new function, since JAX remembers what it traced
        (functools.partial(einsum, "ab,bc->ac"), functools.partial(jnp.einsum, "ab,bc->ac")),
    ):
        programs = [str(jax.make_jaxpr(function)(a, b)) for function in (ours, jaxs)]
        assert all(re.search(IN_BF16, program) for program in programs)
        assert not any("concatenate" in program for program in programs)
        np.testing.assert_array_equal(ours(a, b), jaxs(a, b))
    assert jax.jvp(lambda a, b: matmul(a, b), (a, b), (a, b))[1].dtype == jnp.bfloat16


def test_no_product_of_a_layer_or_of_its_gradients_has_a_result_in_bf16():
    x = drawn(0, 3, 5)

    def program(**options):
        layer = nn.Dense(4, dtype=jnp.bfloat16, **options)
        params = layer.init(jax.random.key(0), x)
        return str(jax.make_jaxpr(jax.grad(lambda params, x: layer.apply(params, x).sum(), (0, 1)))(params, x))

    ours = program(dot_general=dot_general)
    assert len(re.findall("= dot_general", ours)) == 3
    assert not re.search(IN_BF16, ours)
    assert re.search(IN_BF16, program())


@pytest.mark.parametrize(
    ("equation", "lhs", "rhs", "multiplied"),
    [
        ("ab,bc->ac", (1, 5), (5, 4), (2, 5)),
        ("abc,dc->abd", (1, 1, 5), (4, 5), (2, 1, 5)),
        ("hab,hbc->hac", (3, 1, 5), (3, 5, 4), (3, 2, 5)),
        ("hab,hbc->hca", (3, 1, 5), (3, 5, 4), (3, 2, 5)),
        ("ab,bc->ac", (2, 5), (5, 4), (2, 5)),
        ("ab,bc->ac", (1, 5), (5, 1), (1, 5)),
        ("ab,bc->ac", (3, 5), (5, 1), (3, 5)),
        ("b,bc->c", (5,), (5, 4), (5,)),
    ],
)
def test_the_only_row_is_multiplied_twice_since_matrix_units_take_no_vector(equation, lhs, rhs, multiplied):
    a, b = drawn(0, *lhs), drawn(1, *rhs)
    multiply = functools.partial(einsum, equation)
    y, pull = jax.vjp(multiply, a, b)
    expected, exact_pull = jax.vjp(functools.partial(jnp.einsum, equation), *(x.astype(jnp.float32) for x in (a, b)))
    assert y.shape == expected.shape
    assert_rounded_once(y, exact(expected), of=5)
    for got, want in zip(pull(y), exact_pull(y.astype(jnp.float32)), strict=True):
        assert_rounded_once(got, exact(want), of=5)

    program = str(jax.make_jaxpr(multiply)(a, b))
    joined = re.findall(r":bf16\[([^]]*)\] = concatenate", program)
    assert joined == ([] if multiplied == lhs else [",".join(map(str, multiplied))])
    in_fp32 = jax.make_jaxpr(multiply)(a.astype(jnp.float32), b.astype(jnp.float32))
    assert "concatenate" not in str(in_fp32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saved_products_are_not_computed_again(dtype):
    x, kernel = drawn(0, 3, 5, dtype=dtype), drawn(1, 5, 5, dtype=dtype)

    def products(policy):
        layers = jax.checkpoint(lambda x: jnp.tanh(matmul(jnp.tanh(matmul(x, kernel)), kernel)).sum(), policy=policy)
        program = jax.jit(jax.value_and_grad(layers)).lower(x).as_text()
        return len(re.findall("stablehlo.dot_general", program))

    assert products(jax.checkpoint_policies.everything_saveable) == 4
    assert products(dots_saveable) == 4
    assert products(jax.checkpoint_policies.nothing_saveable) == 6


@pytest.mark.parametrize(
    ("dtype", "backend", "saves"), [("bfloat16", "cpu", 1), ("float32", "cpu", 0), ("bfloat16", "gpu", 0)]
)
def test_what_is_rounded_to_bf16_on_a_cpu_is_saved_and_not_computed_again(dtype, backend, saves, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def loss(x):
        return jnp.sum(jnp.square(saved_and_rounded(jnp.sin(x), dtype)).astype(jnp.float32))

    def sines(function):
        return str(jax.make_jaxpr(jax.grad(function))(jnp.ones(3))).count(" sin ")

    assert sines(jax.checkpoint(loss, policy=dots_saveable)) == sines(loss) + 1 - saves
