"""NIST (Doddington, HLT 2002) as in the challenge's mteval-v13a.

    information(w1 ... wn) = log2(count of w1 ... w(n-1) / count of w1 ... wn)
    score = penalty * sum over n from 1 to 5 of (information of the matching n-grams / number of the outputs' n-grams)

The counts are those in all references. For one word, the first count is the number of all words. The penalty is below 1
if the outputs are shorter than the references.

The references' length is the mean length of all references, times the number of segments. The challenge's
reimplementation in Python takes the sum of the segments' mean lengths. The two differ if segments have different
numbers of references.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from hut_jax.metrics.e2e.mteval import LONGEST, Ngram, Reference, Segment
from hut_jax.metrics.statistics import Statistics, Sums

# The penalty is 1/2 for an output of two thirds of the references' length.
_BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(segments: Sequence[Segment]) -> Statistics:
    """NIST's sums: information and n-grams of one to five words, the references' words and number, and 1."""
    information = information_of(reference for segment in segments for reference in segment.references)
    rows = []
    for segment in segments:
        gained = [0.0] * LONGEST
        for ngram, count in segment.matches.items():
            gained[len(ngram) - 1] += count * information(ngram)
        lengths = [reference.length for reference in segment.references if reference.length]
        rows.append([*gained, *segment.totals(LONGEST), sum(lengths), len(lengths), 1])
    return Statistics(np.array(rows, np.float64), _score_of)


def information_of(references: Iterable[Reference]) -> Callable[[Ngram], float]:
    """A function from an n-gram of the references to its information in bits."""
    counts: Counter[Ngram] = Counter()
    words = 0
    for reference in references:
        counts.update(reference.ngrams)
        words += reference.length

    def information(ngram: Ngram) -> float:
        prefix = ngram[:-1]
        # In Perl the string "0" is false, so a bigram that starts with 0 is weighted like a unigram.
        before = words if not prefix or prefix == ("0",) else counts[prefix]
        return math.log2(before / counts[ngram])

    return information


def _score_of(sums: Sums) -> Float64[np.ndarray, "*batch"]:
    gained, totals = sums[..., :LONGEST], sums[..., LONGEST : 2 * LONGEST]
    reference_words, reference_count, segments = sums[..., -3], sums[..., -2], sums[..., -1]
    ratio = totals[..., 0] * reference_count / np.maximum(reference_words * segments, 1)
    inside = np.clip(ratio, np.finfo(np.float64).tiny, 1.0)
    penalty = np.exp(_BETA * np.log(inside) ** 2)  # 0 without words, since it underflows
    return (gained / np.maximum(totals, 1)).sum(axis=-1) * penalty
