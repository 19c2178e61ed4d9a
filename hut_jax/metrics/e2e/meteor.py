"""METEOR 1.5 (Denkowski and Lavie, WMT 2014) with its English parameters, from alignments by the Java program.

An alignment has 23 numbers: the words of the output and of the reference; the function words of both; for each of four
matchers (exact, stem, synonym, paraphrase) the matched content words of both and the matched function words of both;
the chunks; and all matched words of both.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from hut_jax.metrics.e2e.java import meteor_statistics
from hut_jax.metrics.statistics import Statistics, Sums

# Section 3.1 of the paper, the row for English.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


def meteor(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """METEOR's sums.

    Args:
        outputs: tokenized texts.
        references: at least one tokenized text for each output; the best one counts.

    Raises:
        Unavailable: METEOR cannot be run.
    """
    return statistics_of(np.array(meteor_statistics(outputs, references), np.float64))


def statistics_of(rows: Float64[np.ndarray, "n 23"]) -> Statistics:
    """METEOR's sums from the alignment of each output."""
    rows = rows.copy()
    # A match of all words in one chunk is not fragmented, so that chunk counts as none.
    whole = (rows[:, 20] == 1) & (rows[:, 21] == rows[:, 0]) & (rows[:, 22] == rows[:, 1])
    rows[whole, 20] = 0
    return Statistics(rows, _score_of)


def _score_of(sums: Sums) -> Float64[np.ndarray, "*batch"]:
    matched = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4)
    precision = _share(matched[..., 0], matched[..., 2], sums[..., 0], sums[..., 2])
    recall = _share(matched[..., 1], matched[..., 3], sums[..., 1], sums[..., 3])
    chunks, words = sums[..., 20], (sums[..., 21] + sums[..., 22]) / 2
    fragmentation = _GAMMA * (chunks / np.maximum(words, 1)) ** _BETA
    mean = precision * recall / np.maximum(_ALPHA * precision + (1 - _ALPHA) * recall, np.finfo(np.float64).tiny)
    return mean * (1 - fragmentation)


def _share(
    content: Float64[np.ndarray, "*batch 4"],
    function: Float64[np.ndarray, "*batch 4"],
    words: Float64[np.ndarray, "*batch"],
    function_words: Float64[np.ndarray, "*batch"],
) -> Float64[np.ndarray, "*batch"]:
    """The matched share of a text; content words have weight `_DELTA`, function words the rest. 0 without words."""
    matched = (_DELTA * content + (1 - _DELTA) * function) @ _WEIGHTS
    return matched / np.maximum(_DELTA * (words - function_words) + (1 - _DELTA) * function_words, 1 - _DELTA)
