"""The best of many against `jax.lax.top_k`, which looks at each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.generation.best import GROUP, best_of_many

few_values = st.integers(1, 40)  # many equal numbers, within groups and between them


@settings(deadline=None)  # the first of a shape is compiled
@given(k=st.integers(1, 5), n=st.integers(1, 12 * GROUP), values=few_values, seed=st.integers(0, 2**32 - 1))
def test_best_of_many_is_top_k_with_the_first_of_equal_ones_first(k, n, values, seed):
    scores = np.random.default_rng(seed).integers(values, size=(2, 3, max(n, k))).astype(np.float32)
    best, places = best_of_many(jnp.asarray(scores), k)
    expected, expected_places = jax.lax.top_k(scores, k)
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_array_equal(places, expected_places)


@pytest.mark.parametrize("n", [GROUP * 9, GROUP * 9 + 1, GROUP * 10 - 1])
def test_where_most_are_forbidden_the_places_are_still_places_of_these(n):
    scores = jnp.full((1, n), -jnp.inf).at[0, n - 2].set(1.0)
    best, places = best_of_many(scores, 8)
    assert (best[0, 0], places[0, 0]) == (1.0, n - 2)
    assert np.isneginf(best[0, 1:]).all()
    assert len(set(places[0].tolist())) == 8
    assert int(places.max()) < n
