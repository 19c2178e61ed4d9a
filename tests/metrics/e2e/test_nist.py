import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.metrics.e2e.mteval import count_references, match_outputs
from hut_jax.metrics.e2e.nist import information_of, nist

sentences = st.lists(st.sampled_from("abcd0"), min_size=1, max_size=7).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=4)


def statistics(pairs):
    return nist(match_outputs([output for output, _ in pairs], count_references([refs for _, refs in pairs])))


def information(*references):
    ((*counted,),) = count_references([references])
    return information_of(counted)


def penalty(ratio):
    """Half at two thirds of the length, and its logarithm is quadratic in that of the ratio."""
    return 0.5 ** (math.log(ratio) / math.log(1.5)) ** 2


def test_information_is_the_bits_that_the_last_word_tells():
    bits = information("a b a c", "a b d d")
    # Of 8 words 3 are a; two of the three are followed by b, one by c.
    assert bits(("a",)) == pytest.approx(math.log2(8 / 3))
    assert bits(("a", "b")) == pytest.approx(math.log2(3 / 2))
    assert bits(("a", "c")) == pytest.approx(math.log2(3))
    assert bits(("a", "b", "a")) == pytest.approx(1)


def test_what_follows_a_lone_zero_is_weighed_by_all_words():
    bits = information("0 a 0 b", "c 0 d")
    assert bits(("0", "a")) == pytest.approx(math.log2(7))
    assert bits(("0", "a", "0")) == pytest.approx(0)
    assert bits(("c", "0")) == pytest.approx(0)


def test_a_score_worked_out_by_hand():
    # log2(4/2) for a and log2(4/1) for b are 3 bits over 2 words; log2(2/1) for the pair.
    assert statistics([("a b", ["a b a c"])]).score() == pytest.approx((3 / 2 + 1) * penalty(2 / 4))
    assert statistics([("a b a c d", ["a b a c"])]).score() == pytest.approx((1 + 2 + 1 + 2) / 5 + (1 + 0 + 1) / 4)
    assert statistics([("", ["a b"])]).score() == 0
    assert statistics([("x", ["a b"])]).score() == 0


def test_the_penalty_is_by_the_mean_of_all_references_not_of_the_segments():
    # Lengths 1 and, three times, 5: their mean is 4, so two segments want 8 words; the segments' means would want 6.
    pairs = [("a", ["a"]), ("b c d e f", ["b c d e f"] * 3)]
    whole = [("a x", ["a"]), ("b c d e f y", ["b c d e f"] * 3)]
    gained = statistics(pairs).segments[:, :5].sum(axis=0)
    assert statistics(pairs).score() == pytest.approx((gained / [6, 4, 3, 2, 1]).sum() * penalty(6 / 8))
    assert statistics(whole).score() == pytest.approx((gained / [8, 6, 4, 3, 2]).sum())


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_the_order_of_segments_and_references_does_not_matter(pairs):
    score = statistics(pairs).score()
    assert np.isfinite(score)
    assert statistics([(output, refs[::-1]) for output, refs in pairs[::-1]]).score() == pytest.approx(score)


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_an_output_gains_no_more_than_its_reference_tells(pairs):
    texts = [(refs[0], refs[:1]) for _, refs in pairs]
    best = statistics(texts).segments[:, :5]
    others = statistics([(output, refs) for (output, _), (_, refs) in zip(pairs, texts, strict=True)]).segments[:, :5]
    assert (others <= best + 1e-9).all()
