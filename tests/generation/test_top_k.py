"""The grouped search against `jax.lax.top_k`, which looks at each number."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.generation.top_k import GROUP, grouped_top_k

SIZES = (1, GROUP, 5 * GROUP, 5 * GROUP + 1, 11 * GROUP - 1, 11 * GROUP)


@functools.partial(jax.jit, static_argnums=1)
def both(scores, k):
    return grouped_top_k(scores, k), jax.lax.top_k(scores, k)


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from(SIZES),
    k=st.sampled_from((1, 3, 5)),
    values=st.integers(1, 2000),  # few: many equal numbers, within groups and between them
    forbidden=st.sampled_from((0.0, 0.5, 0.999, 1.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_top_k_to_the_index_whatever_is_equal_or_forbidden(n, k, values, forbidden, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(values, size=(2, 3, n)).astype(np.float32)
    scores[random.random(scores.shape) < forbidden] = -np.inf
    for found, expected in zip(*both(scores, min(k, n)), strict=True):
        np.testing.assert_array_equal(found, expected)
