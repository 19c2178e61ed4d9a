"""Rotary positions: what they must do whatever the model, and the limits of each type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.core.errors import UserError
from hut_jax.core.products import dots_saveable, matmul
from hut_jax.models.decoder.rope import Rope, rotated, rotation

WIDTH, LENGTH = 8, 12
PLAIN = Rope(rope_theta=100.0)
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 40}
LISTS = {"short_factor": (1.0,) * 4, "long_factor": (2.0,) * 4, "original_max_position_embeddings": 8}


@jax.jit
def turned(x, cos, sin):
    return rotated(x, cos, sin)


def plain(rope, positions=None, trained=LENGTH, width=WIDTH):
    positions = np.arange(LENGTH)[None] if positions is None else positions
    return rotation(rope, positions, positions.max(axis=-1, keepdims=True) + 1, WIDTH, trained, width)


def angles(rope, positions=None, trained=LENGTH):
    positions = np.arange(LENGTH)[None] if positions is None else positions
    cos, sin = jax.jit(lambda positions: plain(rope, positions, trained=trained))(positions)
    return np.arctan2(sin, cos), np.hypot(sin, cos)


def frequencies(rope, **how):
    """Of the first step, which no angle of which passes half a turn."""
    return angles(rope, **how)[0][0, 1]


def test_products_of_queries_and_keys_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, WIDTH)).astype(np.float32)
    cos, sin = plain(PLAIN)
    queries, keys = (turned(np.repeat(x, LENGTH, axis=1), cos, sin)[0, :, 0] for x in (query, key))
    products = np.asarray(queries) @ np.asarray(keys).T
    for distance in range(-4, 5):
        same = np.diagonal(products, distance)
        np.testing.assert_allclose(same, same[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(products) > 1


def test_entry_i_turns_with_entry_i_plus_half():
    x = np.zeros((1, LENGTH, 1, WIDTH), np.float32)
    x[..., 1] = 1
    y = np.asarray(turned(x, *plain(PLAIN)))[0, :, 0]
    angle = np.arange(LENGTH) * 100.0 ** (-1 / 4)
    np.testing.assert_allclose(y[:, 1], np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(y[:, 5], np.sin(angle), atol=1e-5)
    assert not y[:, [0, 2, 3, 4, 6, 7]].any()


def test_a_partial_factor_leaves_the_last_entries_alone():
    rope = Rope(partial_rotary_factor=0.5)
    x = np.random.default_rng(0).normal(size=(1, LENGTH, 2, WIDTH)).astype(np.float32)
    y = np.asarray(turned(x, *plain(rope, width=4)))
    np.testing.assert_array_equal(y[..., 4:], x[..., 4:])
    assert (y[:, 1:, :, :4] != x[:, 1:, :, :4]).all()


def test_layers_without_positions_change_no_bit():
    x = np.random.default_rng(0).normal(size=(1, LENGTH, 2, WIDTH)).astype(np.float32)
    np.testing.assert_array_equal(turned(x, *plain(None)), x)


def test_linear_is_a_slower_walk():
    slow = plain(Rope("linear", 100.0, factor=4.0), 4 * np.arange(LENGTH)[None])
    for ours, expected in zip(slow, plain(PLAIN), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_llama3_keeps_high_frequencies_and_divides_low_ones():
    plain, ours = frequencies(PLAIN), frequencies(Rope("llama3", 100.0, factor=8.0, **LLAMA3))
    turns = 40 * plain / (2 * np.pi)
    assert list(turns > 4) == [True, False, False, False]
    assert list(turns < 1) == [False, False, True, True]
    np.testing.assert_allclose(ours[[0, 2, 3]], plain[[0, 2, 3]] / [1, 8, 8], rtol=1e-5)
    assert plain[1] / 8 < ours[1] < plain[1]


def test_yarn_of_factor_1_is_the_default_and_sharpens_above():
    yarn = {"original_max_position_embeddings": 40}
    np.testing.assert_allclose(frequencies(Rope("yarn", 100.0, factor=1.0, **yarn)), frequencies(PLAIN), rtol=1e-6)
    _, sizes = angles(Rope("yarn", 100.0, factor=8.0, **yarn))
    np.testing.assert_allclose(sizes, 1 + 0.1 * np.log(8), rtol=1e-5)
    _, sizes = angles(Rope("yarn", 100.0, factor=8.0, attention_factor=1.7, **yarn))
    np.testing.assert_allclose(sizes, 1.7, rtol=1e-5)


def test_dynamic_changes_only_rows_longer_than_the_positions():
    rope = Rope("dynamic", 100.0, factor=4.0)
    both = np.stack([np.arange(LENGTH), np.minimum(np.arange(LENGTH), 7)])
    (long, short), _ = angles(rope, both, trained=8)
    np.testing.assert_allclose(short[1], frequencies(PLAIN), rtol=1e-5)
    base = 100.0 * (4.0 * LENGTH / 8 - 3) ** (8 / 6)
    np.testing.assert_allclose(long[1], base ** (-np.arange(4) / 4), rtol=1e-5)


def test_longrope_takes_the_long_factors_beyond_the_original_length():
    rope = Rope("longrope", 100.0, factor=2.0, **LISTS)
    both = np.stack([np.arange(LENGTH), np.minimum(np.arange(LENGTH), 7)])
    (long, short), _ = angles(rope, both)
    np.testing.assert_allclose(short[1], frequencies(PLAIN), rtol=1e-5)
    np.testing.assert_allclose(long[1], frequencies(PLAIN) / 2, rtol=1e-5)
    assert rope.changes_at == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_type": "mrope"}, r"rope_type 'mrope' is not supported"),
        ({"rope_type": "linear"}, r"rope_type 'linear' needs 'factor'"),
        ({"rope_type": "linear", "factor": 0.0}, r"'factor' must be from 1e-06 to 1e\+12"),
        ({"rope_type": "longrope", "factor": 2.0}, r"needs 'short_factor', 'long_factor', 'original_max"),
        ({"rope_type": "longrope", "factor": 2.0, **LISTS, "long_factor": (0.0,)}, r"'long_factor' must be from"),
        ({"rope_type": "llama3", "factor": 2.0, **LLAMA3, "high_freq_factor": 1.0}, r"below 'high_freq_factor'"),
        ({"partial_rotary_factor": 1.5}, r"'partial_rotary_factor' must be above 0 and at most 1"),
        ({"rope_theta": 1.0}, r"'rope_theta' must be from 1\.001"),
    ],
)
def test_what_has_no_meaning_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Rope(**fields)


def test_widths_that_are_no_pairs_are_refused():
    with pytest.raises(UserError, match=r"turn 7 of them, which must be even"):
        PLAIN.rotary_width(7)
    with pytest.raises(UserError, match=r"'short_factor' has 4 numbers, and must have 3"):
        Rope("longrope", factor=2.0, **LISTS).rotary_width(6)


def test_half_precision_is_turned_in_full():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, LENGTH, 1, WIDTH)), jnp.bfloat16)
    turns = plain(PLAIN)
    y = turned(x, *turns)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, turned(x.astype(jnp.float32), *turns).astype(jnp.bfloat16))


@pytest.mark.parametrize(("dtype", "again"), [("bfloat16", 0), ("float32", 1)])
def test_in_bf16_on_a_cpu_the_backward_pass_turns_nothing_again(dtype, again):
    cos = jnp.ones((1, LENGTH, WIDTH // 2))

    def loss(x, kernel):
        heads = matmul(x, kernel).reshape(1, LENGTH, 2, WIDTH)
        return jnp.sum(jnp.square(rotated(heads, cos, cos)).astype(jnp.float32))

    def turns(function):
        return str(jax.make_jaxpr(jax.grad(function))(x, kernel)).count("concatenate[")

    x, kernel = jnp.ones((LENGTH, 3), dtype), jnp.ones((3, 2 * WIDTH), dtype)
    assert turns(jax.checkpoint(loss, policy=dots_saveable)) == turns(loss) + again
