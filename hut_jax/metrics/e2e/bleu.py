"""BLEU (Papineni, Roukos, Ward and Zhu, ACL 2002) as in mteval-v13a: smoothed, with the closest reference's length.

If no n-gram of some length matches, the precision is 1 / (2^k t) for the k-th such length, with t n-grams. So single
segments have a score too.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from hut_jax.metrics.e2e.mteval import Segment
from hut_jax.metrics.statistics import Statistics, Sums

_LONGEST = 4


def bleu(segments: Sequence[Segment]) -> Statistics:
    """BLEU's sums: the closest reference's length, the matches of one to four words, and the n-grams likewise."""
    rows = [[_closest_length(s), *s.matched(_LONGEST), *s.totals(_LONGEST)] for s in segments]
    return Statistics(np.array(rows, np.float64), _score_of)


def _closest_length(segment: Segment) -> int:
    """The reference length that is closest to the output's; the shorter of two that are equally close."""
    first, *others = (reference.length for reference in segment.references)
    lengths = [first, *(length for length in others if length)]  # an empty text counts only if it is the first
    return min(lengths, key=lambda length: (abs(length - segment.length), length))


def _score_of(sums: Sums) -> Float64[np.ndarray, "*batch"]:
    reference, matched, totals = sums[..., 0], sums[..., 1 : 1 + _LONGEST], sums[..., 1 + _LONGEST :]
    without = (matched == 0) & (totals > 0)
    smoothed = np.where(without, 0.5 ** np.cumsum(without, axis=-1), matched)
    # An output of fewer than n words has no precision for n. Its logarithm counts as 0.
    precision = np.log(np.where(totals > 0, smoothed / np.maximum(totals, 1), 1.0)).mean(axis=-1)
    length = totals[..., 0]
    brevity = np.minimum(0.0, 1.0 - reference / np.maximum(length, 1))
    return np.where(length > 0, np.exp(precision + brevity), 0.0)
