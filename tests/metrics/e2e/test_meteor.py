import numpy as np
import pytest

from hut_jax.metrics.e2e import meteor
from hut_jax.metrics.e2e.meteor import statistics_of


def row(lengths, functions, content, function, chunks, words):
    """What the program says of an output, from pairs of output and reference, matches by matcher."""
    matched = [count for c, f in zip(content, function, strict=True) for count in (*c, *f)]
    return [*lengths, *functions, *matched, chunks, *words]


NONE = [(0, 0)] * 3
# METEOR 1.5's own statistics and scores, of outputs against one reference each: the same words; a paraphrase;
# another order; no word in common; no word at all.
ROWS = np.array(
    [
        row((8, 8), (3, 3), [(5, 5), *NONE], [(3, 3), *NONE], 1, (8, 8)),
        row((4, 4), (1, 1), [(1, 1), (0, 0), (0, 0), (1, 1)], [(0, 0)] * 4, 1, (2, 2)),
        row((5, 8), (3, 3), [(1, 1), *NONE], [(2, 2), *NONE], 2, (3, 3)),
        row((1, 2), (0, 1), [(0, 0)] * 4, [(0, 0)] * 4, 0, (0, 0)),
        row((0, 2), (0, 1), [(0, 0)] * 4, [(0, 0)] * 4, 0, (0, 0)),
    ],
    np.float64,
)
SCORES = [1.0, 0.22928143777071625, 0.134154730663953, 0.0, 0.0]
TOGETHER = 0.2959475501217628


def test_scores_are_those_that_the_program_gives():
    statistics = statistics_of(ROWS)
    assert statistics.segment_scores() == pytest.approx(SCORES, abs=1e-15)
    assert statistics.score() == pytest.approx(TOGETHER, abs=1e-15)


def test_the_program_gets_outputs_and_references(monkeypatch):
    rows = {("the outputs", "the references"): ROWS.tolist()}
    monkeypatch.setattr(meteor, "meteor_statistics", lambda *texts: rows[texts])
    assert meteor.meteor("the outputs", "the references").segment_scores() == pytest.approx(SCORES, abs=1e-15)


def test_a_score_worked_out_by_hand():
    # Two content words of 4 and of 8, in two pieces.
    statistics = statistics_of(np.array([row((4, 8), (0, 0), [(2, 2), *NONE], [(0, 0)] * 4, 2, (2, 2))], np.float64))
    precision, recall = 2 / 4, 2 / 8
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert statistics.score() == pytest.approx(mean * (1 - 0.6 * (2 / 2) ** 0.2))


@pytest.mark.parametrize(("matcher", "weight"), [(0, 1.0), (1, 0.6), (2, 0.8), (3, 0.6)])
def test_a_match_has_its_matchers_weight_and_a_function_word_a_third_of_a_content_words(matcher, weight):
    """In the output 2 of 3 content words and 1 of 2 function words match, in the reference 1 of 4 and 3 of 5."""
    content, function = ([(0, 0)] * matcher + [pair] + [(0, 0)] * (3 - matcher) for pair in ((2, 1), (1, 3)))
    statistics = statistics_of(np.array([row((5, 9), (2, 5), content, function, 2, (3, 4))], np.float64))
    precision = weight * (0.75 * 2 + 0.25 * 1) / (0.75 * 3 + 0.25 * 2)
    recall = weight * (0.75 * 1 + 0.25 * 3) / (0.75 * 4 + 0.25 * 5)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    assert statistics.score() == pytest.approx(mean * (1 - 0.6 * (2 / 3.5) ** 0.2))


def test_a_match_in_one_piece_is_not_fragmented_even_in_a_sum():
    whole = row((3, 3), (1, 1), [(2, 2), *NONE], [(1, 1), *NONE], 1, (3, 3))
    assert statistics_of(np.array([whole] * 3, np.float64)).score() == 1
    part = row((4, 4), (1, 1), [(3, 3), *NONE], [(0, 0), *NONE], 1, (3, 3))
    assert statistics_of(np.array([part], np.float64)).score() < 3 * 0.75 / (3 * 0.75 + 0.25)


def test_a_single_matching_word_is_one_piece():
    one = row((4, 4), (0, 0), [(1, 1), *NONE], [(0, 0)] * 4, 1, (1, 1))
    assert statistics_of(np.array([one], np.float64)).score() == pytest.approx(1 / 4 * (1 - 0.6))
    function = row((1, 1), (1, 1), [(0, 0)] * 4, [(1, 1), *NONE], 1, (1, 1))
    assert statistics_of(np.array([function], np.float64)).score() == 1
