"""ROUGE-L (Lin, 2004) as in coco-caption: the best precision and the best recall, even of different references.

Texts are words with one space between, as the tokenizers give them. A text without words counts as one empty word, so
that it matches another such text.
"""

from collections.abc import Sequence

import numpy as np

from hut_jax.metrics.statistics import Statistics, mean_of

_BETA = 1.2  # recall has beta squared times the weight of precision


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """The mean of the segments' F measures of the longest common subsequence.

    Args:
        outputs: tokenized texts.
        references: at least one tokenized text for each output.
    """
    scores = [_score(output, texts) for output, texts in zip(outputs, references, strict=True)]
    return mean_of(np.array(scores, np.float64))


def _score(output: str, references: Sequence[str]) -> float:
    words = output.split(" ")
    precision = recall = 0.0
    for reference in references:
        wanted = reference.split(" ")
        common = lcs_length(words, wanted)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(wanted))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def lcs_length(one: Sequence[str], two: Sequence[str]) -> int:
    """The length of the longest common subsequence, by Hyyrö's bit-parallel method (AWOCA 2004).

    A row of the table is one integer. A zero bit means that the row's next entry is greater by one.
    """
    positions: dict[str, int] = {}
    for i, word in enumerate(one):
        positions[word] = positions.get(word, 0) | 1 << i
    full = (1 << len(one)) - 1
    row = full
    for word in two:
        steps = row & positions.get(word, 0)
        row = ((row + steps) | (row - steps)) & full
    return len(one) - row.bit_count()
