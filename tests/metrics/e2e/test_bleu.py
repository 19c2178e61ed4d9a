import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.metrics.e2e.bleu import bleu
from hut_jax.metrics.e2e.mteval import count_references, match_outputs

# Papineni et al., section 2.
REFERENCES = [
    "It is a guide to action that ensures that the military will forever heed Party commands.",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party.",
    "It is the practical guide for the army always to heed the directions of the party.",
]
CANDIDATES = [
    "It is a guide to action which ensures that the military always obeys the commands of the party.",
    "It is to insure the troops forever hearing the activity guidebook that party direct.",
]

sentences = st.lists(st.sampled_from("abcde"), min_size=1, max_size=8).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=4)


def segments(pairs):
    return match_outputs([output for output, _ in pairs], count_references([refs for _, refs in pairs]))


def test_the_papers_precisions():
    first, second = segments(
        [(candidate.replace(".", ""), [r.replace(".", "") for r in REFERENCES]) for candidate in CANDIDATES]
    )
    assert (first.matched(2), first.totals(2)) == ([17, 10], [18, 17])
    assert (second.matched(2), second.totals(2)) == ([8, 1], [14, 13])
    (the,) = segments([("the the the the the the the", ["The cat is on the mat", "There is a cat on the mat"])])
    assert (the.matched(1), the.totals(1)) == ([2], [7])


def test_a_score_worked_out_by_hand():
    # Of 6 words 5 match, of 5 pairs 3, of 4 triples 1, and no four: smoothed to 1/2 of one in 3.
    statistics = bleu(segments([("the cat sat on the mat", ["the cat was on the mat today"])]))
    precision = (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** (1 / 4)
    assert statistics.score() == pytest.approx(precision * math.exp(1 - 7 / 6))


def test_lengths_without_a_match_are_smoothed_one_after_the_other():
    # Matches 2, 0, 0, 0 of 4, 3, 2, 1.
    statistics = bleu(segments([("a x b y", ["b c a d"])]))
    assert statistics.score() == pytest.approx((2 / 4 * 1 / (2 * 3) * 1 / (4 * 2) * 1 / (8 * 1)) ** (1 / 4))


def test_an_output_too_short_for_an_ngram_has_no_precision_for_it():
    assert bleu(segments([("a b", ["a b"])])).score() == 1
    assert bleu(segments([("a", ["a b"])])).score() == pytest.approx(math.exp(1 - 2 / 1))
    assert bleu(segments([("", ["a b"])])).score() == 0


@pytest.mark.parametrize(
    ("lengths", "closest"), [([11, 8, 6, 7], 7), ([9, 5], 5), ([5, 9], 5), ([10, 5], 5), ([9], 9), ([12, 3], 3)]
)
def test_the_closest_references_length_counts_and_of_two_the_shorter(lengths, closest):
    statistics = bleu(segments([("w " * 7, ["w " * length for length in lengths])]))
    assert statistics.segments[0, 0] == closest


def test_an_empty_reference_is_none_unless_it_is_the_first():
    assert bleu(segments([("w", ["w w w", "<skipped>"])])).segments[0, 0] == 3
    assert bleu(segments([("w", ["<skipped>", "w w w"])])).segments[0, 0] == 0


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_the_corpus_is_the_sum_of_its_segments_in_any_order(pairs):
    statistics = bleu(segments(pairs))
    backwards = [(output, refs[::-1]) for output, refs in pairs[::-1]]
    assert bleu(segments(backwards)).score() == pytest.approx(statistics.score(), rel=1e-12)
    assert (statistics.segment_scores() >= 0).all()
    assert 0 <= statistics.score() <= 1
    alone = [bleu(segments([pair])).score() for pair in pairs]
    np.testing.assert_allclose(statistics.segment_scores(), alone, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(corpora)
def test_outputs_that_are_references_score_one(pairs):
    assert bleu(segments([(refs[-1], refs) for _, refs in pairs])).score() == pytest.approx(1)
