"""A metric's sufficient statistics: the sums that each segment adds to, and the score of such sums.

So the scores of a corpus, of a segment and of a bootstrap's resample are one computation on different sums.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Sums = Float64[np.ndarray, "*batch k"]
ScoreOf = Callable[[Sums], Float64[np.ndarray, "*batch"]]


@dataclass(frozen=True)
class Statistics:
    """A metric's sufficient statistics.

    Attributes:
        segments: what each of n segments adds to the k sums.
        score_of: a function from sums `[..., k]` to scores `[...]`.
    """

    segments: Float64[np.ndarray, "n k"]
    score_of: ScoreOf

    def score(self) -> float:
        """The score of all segments together."""
        return float(self.score_of(self.segments.sum(axis=0)))

    def segment_scores(self) -> Float64[np.ndarray, " n"]:
        """The score of each segment alone."""
        return self.score_of(self.segments)


def mean_of(scores: Float64[np.ndarray, " n"]) -> Statistics:
    """The statistics of a metric that is the mean of its segments' scores."""
    return Statistics(np.stack([scores, np.ones_like(scores)], axis=1), _mean)


def _mean(sums: Sums) -> Float64[np.ndarray, "*batch"]:
    return sums[..., 0] / sums[..., 1]
