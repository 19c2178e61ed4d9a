import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.metrics.e2e.cider import cider

sentences = st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=4)


def first(output, references, *others):
    """The first segment's score, the others being there for the document frequencies."""
    groups = [references, *([other] for other in others)]
    return cider([output, *others], groups).segment_scores()[0]


def test_scores_worked_out_by_hand():
    assert first("a b c d", ["a b c d"], "z") == pytest.approx(10)
    # Two of four words, one of three pairs; no triple and no four.
    assert first("a b c d", ["a b x y"], "z") == pytest.approx(10 * (2 / 4 + 1 / 3) / 4)
    # Lengths are compared in pairs: 1 and 3.
    gaussian = math.exp(-((1 - 3) ** 2) / (2 * 6**2))
    assert first("a b", ["a b c d"], "z") == pytest.approx(
        10 * (2 / math.sqrt(2 * 4) + 1 / math.sqrt(1 * 3)) / 4 * gaussian
    )
    # A lone word has no pair.
    assert first("a", ["a b c d"], "z") == pytest.approx(10 / math.sqrt(4) / 4 * math.exp(-((0 - 3) ** 2) / (2 * 6**2)))


def test_a_word_counts_no_more_than_the_reference_has_it():
    # Weights 3 and 1 beside 1 and 1; three pairs, aa twice, beside one.
    gaussian = math.exp(-((3 - 1) ** 2) / (2 * 6**2))
    assert first("a a a b", ["a b"], "z") == pytest.approx(
        10 * (2 / math.sqrt(10 * 2) + 1 / math.sqrt(5 * 1)) / 4 * gaussian
    )


def test_what_all_references_have_counts_nothing_and_what_none_has_most():
    assert first("a", ["a"], "a") == 0
    # Of three segments two have a: it weighs log(3/2), b weighs log(3), and x too, which is in none.
    a, b = math.log(3 / 2), math.log(3)
    assert first("a x", ["a b"], "a", "z") == pytest.approx(10 * (a * a / (a * a + b * b)) / 4)


def test_several_references_count_by_their_mean():
    assert first("a b c d", ["a b c d", "x"], "z") == pytest.approx(10 / 2)


def test_words_are_parted_by_any_white_space():
    assert first("1\xa01/2 b", ["1 1/2 b"], "z") == pytest.approx(first("1 1/2 b", ["1 1/2 b"], "z"))


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_no_score_is_negative_or_above_ten(pairs):
    scores = cider([output for output, _ in pairs], [refs for _, refs in pairs]).segment_scores()
    assert ((scores >= 0) & (scores <= 10 + 1e-9)).all()
