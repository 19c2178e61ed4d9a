"""How sure a score is, and a difference of two: resampling segments' sums, so that nothing is scored twice.

Intervals are percentiles of the bootstrap (Efron and Tibshirani 1993; Koehn, EMNLP 2004, for scores of texts); the test
of two outputs is approximate randomisation (Riezler and Maxwell, 2005). What a metric takes from all references,
as document frequencies, stays that of the whole set.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from hut_jax.core.errors import UserError
from hut_jax.metrics.statistics import Statistics

LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Comparison:
    """One output's score less another's.

    Attributes:
        difference: in the metric's own unit.
        low: the interval's lower end.
        high: its upper end.
        p_value: how often outputs swapped by chance differ by as much, in either direction.
    """

    difference: float
    low: float
    high: float
    p_value: float


def interval(statistics: Statistics, resamples: int, seed: int) -> tuple[float, float]:
    """A score's confidence interval at `LEVEL`. A seed gives the same resamples to every metric.

    Raises:
        UserError: no resamples are asked for.
    """
    return _percentiles(statistics.score_of(_resampled(statistics.segments, resamples, seed)))


def compare(ours: Statistics, theirs: Statistics, resamples: int, seed: int) -> Comparison:
    """Two outputs for the same segments, by a metric: ours less theirs.

    The interval is the paired bootstrap's, where a resample has the same segments of both.

    Raises:
        UserError: there are not as many segments of each, or no resamples are asked for.
    """
    if ours.segments.shape != theirs.segments.shape:
        raise UserError(f"{len(ours.segments)} segments against {len(theirs.segments)}; as many of each are wanted")
    score = ours.score_of
    both = _resampled(np.concatenate([ours.segments, theirs.segments], axis=1), resamples, seed)
    mine, other = np.split(both, 2, axis=1)
    low, high = _percentiles(score(mine) - score(other))
    difference = ours.score() - theirs.score()

    generator = np.random.default_rng(seed)
    change = theirs.segments - ours.segments
    swapped = np.stack([(generator.random(len(change)) < 0.5) @ change for _ in range(resamples)])
    by_chance = score(ours.segments.sum(axis=0) + swapped) - score(theirs.segments.sum(axis=0) - swapped)
    # As large to a rounding: a swap of all is the same difference, and sums in another order are not equal to the bit.
    as_large = np.abs(by_chance) >= abs(difference) - 1e-12
    return Comparison(difference, low, high, float((as_large.sum() + 1) / (resamples + 1)))


def _resampled(segments: Float64[np.ndarray, "n k"], resamples: int, seed: int) -> Float64[np.ndarray, "{resamples} k"]:
    """The sums of as many segments as there are, drawn with replacement, for each resample."""
    if resamples < 1:
        raise UserError(f"{resamples} resamples; at least 1 is wanted")
    generator = np.random.default_rng(seed)
    each = np.full(len(segments), 1 / len(segments))
    return np.stack([generator.multinomial(len(segments), each) @ segments for _ in range(resamples)])


def _percentiles(scores: Float64[np.ndarray, " b"]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)
