"""CIDEr (Vedantam, Zitnick and Parikh, CVPR 2015) as in coco-caption, where it is CIDEr-D.

    weight(g, text) = count of g in the text * log(number of segments / number of segments whose references have g)
    cosine_n = sum over n-grams g of min(o, t) * t / (norm of all o * norm of all t)
    score of a segment = 10 * mean over its references and over n from 1 to 4 of cosine_n * closeness

Here o is the weight of g in the output, and t is its weight in the reference. The closeness is a Gaussian of the
difference between the two texts' lengths. It is 1 for equal lengths. The score is the mean over all segments.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hut_jax.metrics.e2e.mteval import Ngram, count_ngrams
from hut_jax.metrics.statistics import Statistics, mean_of

_LONGEST = 4
_SIGMA = 6.0  # of the Gaussian, in words

Weights = list[dict[Ngram, float]]  # for n from 1 to 4


def cider(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """The mean of the segments' scores. Document frequencies are those of the references given.

    Args:
        outputs: tokenized texts.
        references: at least one tokenized text for each output.
    """
    counts = [[count_ngrams(text.split(), _LONGEST) for text in texts] for texts in references]
    frequency = Counter(ngram for each in counts for ngram in set().union(*each))
    segments = math.log(len(counts))
    rarity = {ngram: segments - math.log(count) for ngram, count in frequency.items()}
    scores = []
    for output, wanted in zip(outputs, counts, strict=True):
        ours = _Vector(count_ngrams(output.split(), _LONGEST), rarity, segments)
        similarities = [_similarity(ours, _Vector(each, rarity, segments)) for each in wanted]
        scores.append(10.0 * sum(similarities) / len(similarities))
    return mean_of(np.array(scores, np.float64))


class _Vector:
    """A text's weights, their norms for each n, and the number of bigrams, which stands for its length."""

    def __init__(self, counts: Counter[Ngram], rarity: dict[Ngram, float], unseen: float):
        self.weights: Weights = [{} for _ in range(_LONGEST)]
        self.bigrams = 0
        for ngram, count in counts.items():
            self.weights[len(ngram) - 1][ngram] = count * rarity.get(ngram, unseen)
            if len(ngram) == 2:
                self.bigrams += count
        self.norms = [math.sqrt(sum(weight * weight for weight in each.values())) for each in self.weights]


def _similarity(ours: _Vector, theirs: _Vector) -> float:
    total = 0.0
    for mine, wanted, norm in zip(
        ours.weights, theirs.weights, (a * b for a, b in zip(ours.norms, theirs.norms, strict=True)), strict=True
    ):
        if norm:
            total += (
                sum(min(mine[ngram], wanted[ngram]) * wanted[ngram] for ngram in mine.keys() & wanted.keys()) / norm
            )
    return total / _LONGEST * math.exp(-((ours.bigrams - theirs.bigrams) ** 2) / (2 * _SIGMA**2))
