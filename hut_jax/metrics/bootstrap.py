"""Confidence intervals of a score and of the difference of two scores, from resampled segments.

Only the segments' sums are resampled; no text is scored again. Intervals are percentiles of the bootstrap (Efron and
Tibshirani 1993; Koehn, EMNLP 2004, for scores of texts). The test of two outputs is approximate randomisation (Riezler
and Maxwell, 2005). Values that a metric takes from all references, such as document frequencies, are not resampled.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from hut_jax.core.errors import UserError
from hut_jax.metrics.statistics import Statistics

LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class Comparison:
    """The difference of two outputs' scores.

    Attributes:
        difference: the first score minus the second.
        low: the lower end of its interval.
        high: the upper end.
        p_value: the share of random swaps of the outputs whose difference is at least as large, in either direction.
    """

    difference: float
    low: float
    high: float
    p_value: float


def interval(statistics: Statistics, resamples: int, seed: int) -> tuple[float, float]:
    """A score's confidence interval at `LEVEL`. The same seed gives every metric the same resamples.

    Raises:
        UserError: `resamples` is below 1.
    """
    return _percentiles(statistics.score_of(_resampled(statistics.segments, resamples, seed)))


def compare(ours: Statistics, theirs: Statistics, resamples: int, seed: int) -> Comparison:
    """Compare two outputs for the same segments: our score minus theirs.

    The interval is that of the paired bootstrap, in which a resample has the same segments of both outputs.

    Raises:
        UserError: the two have different numbers of segments, or `resamples` is below 1.
    """
    if ours.segments.shape != theirs.segments.shape:
        raise UserError(f"{len(ours.segments)} segments against {len(theirs.segments)}; the numbers must be equal")
    score = ours.score_of
    both = _resampled(np.concatenate([ours.segments, theirs.segments], axis=1), resamples, seed)
    mine, other = np.split(both, 2, axis=1)
    low, high = _percentiles(score(mine) - score(other))
    difference = ours.score() - theirs.score()

    generator = np.random.default_rng(seed)
    change = theirs.segments - ours.segments
    swapped = np.stack([(generator.random(len(change)) < 0.5) @ change for _ in range(resamples)])
    by_chance = score(ours.segments.sum(axis=0) + swapped) - score(theirs.segments.sum(axis=0) - swapped)
    # Up to rounding: a swap of all segments gives the same difference, but from sums in another order.
    as_large = np.abs(by_chance) >= abs(difference) - 1e-12
    return Comparison(difference, low, high, float((as_large.sum() + 1) / (resamples + 1)))


def _resampled(segments: Float64[np.ndarray, "n k"], resamples: int, seed: int) -> Float64[np.ndarray, "{resamples} k"]:
    """The sums of each resample. A resample draws as many segments as there are, with replacement."""
    if resamples < 1:
        raise UserError(f"{resamples} resamples; there must be at least 1")
    generator = np.random.default_rng(seed)
    each = np.full(len(segments), 1 / len(segments))
    return np.stack([generator.multinomial(len(segments), each) @ segments for _ in range(resamples)])


def _percentiles(scores: Float64[np.ndarray, " b"]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)
