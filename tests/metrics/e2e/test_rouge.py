import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.metrics.e2e.rouge import lcs_length, rouge_l

words = st.lists(st.sampled_from("abcd"), max_size=12)


def f_measure(precision, recall):
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def by_table(one, two):
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@settings(max_examples=40, deadline=None)
@given(words, words)
def test_the_common_subsequence_is_that_of_the_whole_table(one, two):
    assert lcs_length(one, two) == by_table(one, two)


def test_scores_worked_out_by_hand():
    # Lin's example: police ... the gunman, 3 of 4 and 2 of 4.
    assert rouge_l(["police kill the gunman"], [["police killed the gunman"]]).score() == pytest.approx(3 / 4)
    assert rouge_l(["the gunman kill police"], [["police killed the gunman"]]).score() == pytest.approx(2 / 4)
    assert rouge_l(["a b c"], [["a b c d e f"]]).score() == pytest.approx(f_measure(1, 1 / 2))


def test_precision_and_recall_may_be_of_two_references():
    assert rouge_l(["a b c d"], [["a b c x x x", "d"]]).score() == pytest.approx(f_measure(3 / 4, 1))


def test_texts_without_words_match_one_another_alone():
    assert rouge_l(["", "a", ""], [["a"], [""], ["", "a"]]).segment_scores().tolist() == [0, 0, 1]


def test_the_score_is_the_segments_mean():
    statistics = rouge_l(["a b", "a"], [["a c"], ["a"]])
    assert statistics.segment_scores().tolist() == pytest.approx([1 / 2, 1])
    assert statistics.score() == pytest.approx(3 / 4)
