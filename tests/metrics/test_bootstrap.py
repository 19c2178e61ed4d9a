import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hut_jax.core.errors import UserError
from hut_jax.metrics.bootstrap import LEVEL, compare, interval
from hut_jax.metrics.statistics import Statistics, mean_of

scores = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(np.array)


def ratio(rows):
    return Statistics(np.array(rows, np.float64), lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def test_an_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = interval(mean_of(values), 4000, seed=0)
    wanted = stats.norm.interval(LEVEL, values.mean(), values.std() / np.sqrt(len(values)))
    assert (low, high) == pytest.approx(wanted, abs=0.02)
    narrower = stats.norm.interval(LEVEL - 0.05, values.mean(), values.std() / np.sqrt(len(values)))
    assert (low, high) != pytest.approx(narrower, abs=0.02)


def test_an_interval_of_a_ratio_is_the_percentiles_of_all_resamples():
    rows = [(1, 2), (3, 4), (0, 5)]
    exact = [
        sum(rows[i][0] for i in drawn) / sum(rows[i][1] for i in drawn)
        for drawn in itertools.product(range(3), repeat=3)
    ]
    wanted = np.quantile(exact, [0.025, 0.975], method="inverted_cdf")
    assert interval(ratio(rows), 20000, seed=0) == pytest.approx(wanted)


@given(scores)
@settings(max_examples=30, deadline=None)
def test_an_interval_stays_within_the_segments_scores(values):
    low, high = interval(mean_of(values), 50, seed=0)
    assert values.min() - 1e-12 <= low <= high <= values.max() + 1e-12


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    statistics = mean_of(np.random.default_rng(0).random(50))
    assert interval(statistics, 100, seed=3) == interval(statistics, 100, seed=3)
    assert interval(statistics, 100, seed=3) != interval(statistics, 100, seed=4)


def test_the_p_value_is_the_share_of_all_swaps_that_differ_as_much():
    ours, theirs = np.array([0.9, 0.8, 0.7, 0.6, 0.9, 0.4]), np.array([0.5, 0.7, 0.8, 0.1, 0.2, 0.3])
    difference = (ours - theirs).mean()
    swaps = [np.mean(np.array(signs) * (ours - theirs)) for signs in itertools.product((1, -1), repeat=6)]
    exact = np.mean(np.abs(swaps) >= abs(difference) - 1e-12)
    result = compare(mean_of(ours), mean_of(theirs), 20000, seed=0)
    assert result.difference == pytest.approx(difference)
    assert result.p_value == pytest.approx(exact, abs=0.01)


def test_the_pairs_are_what_makes_a_small_difference_certain():
    base = np.random.default_rng(0).random(300)
    result = compare(mean_of(base + 0.01), mean_of(base), 500, seed=0)
    assert (result.low, result.high) == pytest.approx((0.01, 0.01))
    assert result.p_value == pytest.approx(1 / 501)


def test_an_output_does_not_differ_from_itself():
    statistics = ratio([(1, 2), (3, 4), (0, 5)])
    result = compare(statistics, statistics, 100, seed=0)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_the_other_way_round_is_the_negative():
    ours, theirs = ratio([(1, 2), (3, 4), (0, 5)]), ratio([(2, 2), (3, 5), (1, 5)])
    there, back = compare(ours, theirs, 200, seed=0), compare(theirs, ours, 200, seed=0)
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert back.p_value == there.p_value


def test_what_cannot_be_resampled_is_told():
    statistics = mean_of(np.ones(3))
    with pytest.raises(UserError, match="0 resamples; there must be at least 1"):
        interval(statistics, 0, seed=0)
    with pytest.raises(UserError, match="3 segments against 2"):
        compare(statistics, mean_of(np.ones(2)), 10, seed=0)
