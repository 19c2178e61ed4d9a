"""Dropout against probability, and against what Flax's promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.models.dropout import Dropout, kept


@partial(jax.jit, static_argnums=1)
def drop(x, rate):
    return Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": jax.random.key(0)})


keep = jax.jit(lambda seed, shape: kept(jax.random.key(seed), 2**15, shape), static_argnums=1)


@pytest.mark.parametrize("shape", [(1,), (4,), (7,), (2, 3), (3, 1, 5), (2, 3, 4, 6)])
def test_any_shape(shape):
    mask = jax.eval_shape(lambda: keep(1, shape))
    assert mask.shape == shape
    assert mask.dtype == bool


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.93])
def test_the_rate_and_what_is_left(rate):
    n = 2**20
    y = np.asarray(drop(np.ones((n // 1024, 1024), np.float32), rate))
    share = (y == 0).mean()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / n) + 2**-16  # five standard deviations, and the rounding
    assert np.unique(y[y > 0]).size == 1
    assert y.max() == pytest.approx(1 / (1 - rate), rel=1e-3)


def test_a_rate_of_1_drops_everything():
    np.testing.assert_array_equal(drop(np.ones((3, 4), np.float32), 1.0), np.zeros((3, 4)))


def test_draws_are_independent_along_every_axis_and_between_quarters():
    mask = np.asarray(keep(3, (64, 64, 64))) * 2.0 - 1
    bound = 5 / np.sqrt(mask.size / 4)  # five standard deviations of the shortest overlap
    for axis in range(3):
        for step in (1, 2, 3, 4, 16, 32, 48):
            first, second = np.split(np.swapaxes(mask, 0, axis), [step])[1], np.swapaxes(mask, 0, axis)[:-step]
            assert abs((first * second).mean()) < bound, (axis, step)
    other = np.asarray(keep(4, (64, 64, 64))) * 2.0 - 1
    assert abs((mask * other).mean()) < bound


def test_no_two_rows_are_alike():
    mask = np.asarray(keep(5, (4096, 64)))
    assert len(np.unique(np.packbits(mask, axis=1), axis=0)) == 4096


def test_the_same_on_any_devices():
    shape = (8, 3, 10)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("x"))
    shared = jax.jit(lambda seed: keep(seed, shape), out_shardings=split)(6)
    assert shared.sharding.num_devices == 8
    np.testing.assert_array_equal(shared, keep(6, shape))


@pytest.mark.parametrize("options", [{"deterministic": True}, {"deterministic": False}])
def test_nothing_is_dropped_where_nothing_should_be(options):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    rate = 0.0 if options["deterministic"] is False else 0.5
    np.testing.assert_array_equal(Dropout(rate, **options).apply({}, x), x)


def test_the_gradient_is_the_masks():
    x = np.linspace(1, 2, 50, dtype=np.float32)
    gradient = jax.jit(jax.grad(lambda x: drop(x, 0.3).sum()))(x)
    np.testing.assert_allclose(gradient, drop(np.ones_like(x), 0.3), rtol=1e-6)
    assert 0 < np.count_nonzero(gradient) < 50


def test_the_dtype_stays():
    assert jax.eval_shape(lambda: drop(jnp.ones(8, jnp.bfloat16), 0.5)).dtype == jnp.bfloat16
