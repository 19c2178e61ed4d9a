"""The count against algebra, and against XLA's own where algebra is long."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.costs.flops import Flops, count_flops, xla_flops
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@given(b=st.integers(1, 5), m=st.integers(1, 9), k=st.integers(1, 9), n=st.integers(1, 9), transposed=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_product_of_matrices_is_two_operations_for_each_pair_of_entries_that_meet(b, m, k, n, transposed):
    text, right = ("bmk,bnk->bmn", (b, n, k)) if transposed else ("bmk,bkn->bmn", (b, k, n))
    assert count_flops(partial(jnp.einsum, text), floats(b, m, k), floats(*right)) == Flops(2 * b * m * k * n)


def test_a_gradient_that_is_not_asked_for_is_not_counted():
    x, w, g = floats(5, 3), floats(3, 7), floats(5, 7)

    def pull(x, w, g):
        return jax.vjp(jnp.matmul, x, w)[1](g)

    product = 2 * 5 * 3 * 7
    assert count_flops(pull, x, w, g).flops == 2 * product
    assert count_flops(lambda x, w, g: pull(x, w, g)[0], x, w, g).flops == product
    assert count_flops(jax.jit(lambda x, w, g: pull(x, w, g)[0]), x, w, g).flops == product


def test_arithmetic_is_counted_by_result_reductions_by_operand_and_roots_apart():
    def function(x, y):
        return jnp.sum(x * y - 1) / jnp.sqrt(y)[0]  # 6 products, 6 differences, 6 summed, 1 quotient; 6 roots

    assert count_flops(function, floats(6), floats(6)) == Flops(6 + 6 + 6 + 1, 6)
    assert count_flops(lambda x: x.at[jnp.array([0, 0, 1])].add(x[:3]), floats(6)).flops == 3


def test_powers_and_polynomials_are_counted_as_xla_counts_them():
    powers = [lambda x, exponent=exponent: jax.lax.integer_pow(x, exponent) for exponent in (3, 7, -2)]
    for function in [*powers, jax.lax.erfc, jax.lax.erf_inv]:
        assert count_flops(function, floats(1000)).flops == xla_flops(function, floats(1000)).flops
    for function in (jax.lax.lgamma, jax.lax.digamma):  # some versions of XLA take longer polynomials
        ours, theirs = count_flops(function, floats(1000)).flops, xla_flops(function, floats(1000)).flops
        assert 50_000 < ours <= theirs


def test_moving_comparing_and_integers_are_free():
    def function(x, i):
        return jnp.where(x > 0, x.T, x)[i * 3 + 1].astype(jnp.bfloat16), i + 1

    assert count_flops(function, floats(4, 4), jax.ShapeDtypeStruct((2,), jnp.int32)) == Flops(0)


def test_a_scanned_body_counts_as_often_as_it_runs():
    def function(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    assert count_flops(function, floats(2, 3), floats(5, 3, 3)) == Flops(5 * 2 * 2 * 3 * 3, 5 * 2 * 3)


def test_what_is_computed_again_in_the_backward_pass_counts_again():
    def two_layers(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    def train(function):
        return jax.value_and_grad(lambda w, x: jnp.sum(function(w, x)))

    w, x = floats(3, 3), floats(2, 3)
    plain, again = count_flops(train(two_layers), w, x), count_flops(train(jax.checkpoint(two_layers)), w, x)
    assert again.flops - plain.flops == 2 * (2 * 2 * 3 * 3)
    assert again.transcendentals == 2 * plain.transcendentals


def test_of_a_condition_the_dearest_branch_counts_and_of_an_open_loop_one_round():
    def either(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x, lambda x: x + 1, x)

    assert count_flops(either, jax.ShapeDtypeStruct((), bool), floats(4, 4)).flops == 2 * 4**3
    loop = partial(jax.lax.while_loop, lambda x: x[0, 0] < 9, lambda x: x @ x)
    assert count_flops(loop, floats(4, 4)).flops == 2 * 4**3


def test_a_function_with_a_gradient_of_its_own_counts_as_it_is_written():
    @jax.custom_vjp
    def double(x):
        return x + x

    double.defvjp(lambda x: (x + x, None), lambda _, g: (g * 2 * 1.5,))
    assert count_flops(double, floats(7)).flops == 7
    assert count_flops(lambda x, g: jax.vjp(double, x)[1](g), floats(7), floats(7)).flops == 14


class Convolutions(nn.Module):
    """Strides, padding, groups, dilation and pooling."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), strides=(2, 2))(x))
        x = nn.Conv(16, (5, 3), feature_group_count=4, kernel_dilation=2)(x)
        return nn.avg_pool(x, (2, 2), (2, 2))


def test_convolutions_and_their_gradients_are_counted_as_xla_counts_them():
    model, x = Convolutions(), floats(2, 17, 17, 8)
    params = jax.eval_shape(model.init, jax.random.key(0), x)

    def both(params, x):
        return jax.value_and_grad(lambda params: jnp.sum(model.apply(params, x) ** 2))(params)

    ours, theirs = count_flops(both, params, x), xla_flops(both, params, x)
    assert abs(ours.flops / theirs.flops - 1) < 0.02


@pytest.mark.full
def test_a_models_gradient_is_counted_as_the_lowered_program_counts_it():
    """Before XLA compiles it. Its count has comparisons and integers too, under 1% of the operations here.

    The control: a model with another layer has far more operations than that.
    """
    counts = []
    for layers in (2, 3):
        model = GPT2(GPT2Config(vocab_size=97, n_positions=32, n_embd=64, n_layer=layers, n_head=4))
        ids = jax.ShapeDtypeStruct((2, 32), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), ids)

        def gradient(params, ids, model=model):
            return jax.grad(lambda params: jnp.sum(model.apply(params, ids) ** 2))(params)

        theirs = jax.jit(gradient).lower(params, ids).cost_analysis()["flops"]
        counts.append((count_flops(gradient, params, ids).flops, theirs))
    (ours, theirs), (more, _) = counts
    assert abs(ours / theirs - 1) < 0.005 < 0.3 < more / theirs - 1
