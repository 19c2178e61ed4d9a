"""Our scores against those of other libraries, on made-up and real outputs, where the definitions agree.

Each test says where they do not. The negative control on systems is always the same: outputs shifted by one segment,
which both libraries must score differently, and alike.
"""

import itertools
import re

import nltk.translate.meteor_score as nltk_meteor
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nltk.translate.nist_score import corpus_nist
from sacrebleu.metrics import BLEU

from hut_jax.metrics.e2e import ptb
from hut_jax.metrics.e2e.bleu import bleu
from hut_jax.metrics.e2e.cider import cider
from hut_jax.metrics.e2e.meteor import statistics_of
from hut_jax.metrics.e2e.mteval import count_references, match_outputs, tokenize
from hut_jax.metrics.e2e.nist import nist
from hut_jax.metrics.e2e.rouge import rouge_l

sentences = st.lists(st.sampled_from("abcde"), min_size=4, max_size=8).map(" ".join)
corpora = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=4)


on_systems = pytest.mark.parametrize(
    "system",
    ["test-made", "dev-made", *(pytest.param(s, marks=pytest.mark.full) for s in ("test-chen", "dev-ukp-seed1"))],
)


def check(ours, theirs, outputs, references):
    """Both agree, on the outputs and on the outputs shifted by one, and these two differ."""
    shifted = [*outputs[1:], outputs[0]]
    scores = [ours(outputs, references), ours(shifted, references)]
    assert scores == pytest.approx([theirs(outputs, references), theirs(shifted, references)], rel=1e-9)
    assert scores[0] > 1.1 * scores[1] > 0


def our_bleu(outputs, references):
    return bleu(match_outputs(outputs, count_references(references))).score()


def sacrebleu(outputs, references):
    columns = list(itertools.zip_longest(*references))
    return BLEU(tokenize="13a", lowercase=True, smooth_method="exp").corpus_score(outputs, columns).score / 100


@on_systems
def test_bleu_is_sacrebleus(outputs_of, system):
    check(our_bleu, sacrebleu, *outputs_of(system))


@given(corpora)
@settings(max_examples=50, deadline=None)
def test_smoothed_bleu_is_sacrebleus(pairs):
    outputs, references = [output for output, _ in pairs], [refs for _, refs in pairs]
    assume(any({*output} & {*"".join(refs)} - {" "} for output, refs in pairs))
    expected = sacrebleu(outputs, references)
    assert our_bleu(outputs, references) == pytest.approx(expected, rel=1e-9)
    without_a_match = [re.sub(r"\w", "x", output) for output in outputs]
    assert our_bleu(without_a_match, references) < 0.999 * expected


def test_where_bleu_differs_from_sacrebleu():
    # A corpus without any n-gram of four words: mteval-v13a leaves that length out, sacrebleu scores 0.
    assert (our_bleu(["a b c"], [["a b c"]]), sacrebleu(["a b c"], [["a b c"]])) == (1, 0)
    # A corpus without any matching word: mteval-v13a smooths that length too, sacrebleu scores 0.
    assert our_bleu(["a b c d"], [["w x y z"]]) > 0 == sacrebleu(["a b c d"], [["w x y z"]])
    # mteval-v13a lowers the case of ASCII letters only.
    accents = ["É a b c d"], [["é a b c d"]]
    assert our_bleu(*accents) < 1
    assert sacrebleu(*accents) == pytest.approx(1)
    # The challenge's script ignores empty references that are not the first; the others' lengths count.
    empty = ["a b c d"], [["a b c d e f g h i", ""]]
    assert our_bleu(*empty) < 1
    assert sacrebleu(*empty) == pytest.approx(1)


def our_nist(outputs, references):
    return nist(match_outputs(outputs, count_references(references))).score()


def nltk_nist(outputs, references):
    return corpus_nist([[tokenize(text) for text in texts] for texts in references], list(map(tokenize, outputs)))


@on_systems
def test_nist_with_one_reference_is_nltks(outputs_of, system):
    outputs, references = outputs_of(system)
    check(our_nist, nltk_nist, outputs, [texts[:1] for texts in references])


def test_where_nist_differs_from_nltk():
    # Of several references NLTK takes the best one, mteval-v13a clips to the largest count in any of them.
    several = ["a b c d e"], [["a b c x y", "x y c d e"]]
    assert our_nist(*several) > 1.1 * nltk_nist(*several)
    # In Perl the word "0" is false, and what follows it is weighted as a first word.
    zero = ["0 a c d e"], [["0 a 0 b c d e"]]
    assert our_nist(*zero) > 1.1 * nltk_nist(*zero)


class Identity:
    """A stemmer and a WordNet that match equal words only."""

    def stem(self, word):
        return word

    def synsets(self, word):
        return []


def our_meteor(outputs, references):
    rows = []
    for output, (reference,) in zip(outputs, references, strict=True):
        words, wanted = output.split(), reference.split()
        matches = nltk_meteor.align_words(words, wanted, stemmer=Identity(), wordnet=Identity())[0]
        chunks = nltk_meteor._count_chunks(matches) if matches else 0
        exact = [len(matches), len(matches), 0, 0]
        rows.append([len(words), len(wanted), 0, 0, *exact, *[0] * 12, chunks, len(matches), len(matches)])
    return statistics_of(np.array(rows, np.float64)).segment_scores().mean()


def nltk_meteor_score(outputs, references):
    scores = [
        nltk_meteor.single_meteor_score(
            reference.split(), output.split(), str.lower, Identity(), Identity(), alpha=0.85, beta=0.2, gamma=0.6
        )
        for output, (reference,) in zip(outputs, references, strict=True)
    ]
    return sum(scores) / len(scores)


@on_systems
def test_meteors_score_of_an_alignment_is_nltks(outputs_of, system):
    """NLTK's METEOR is that of 2007: no function words, no paraphrases. So the alignments here have neither."""
    outputs, references = outputs_of(system)
    outputs = [f"{output} indeed" for output in outputs]  # so that no output is a match of all words
    check(our_meteor, nltk_meteor_score, outputs, [texts[:1] for texts in references])


def test_where_meteor_differs_from_nltk():
    # METEOR 1.5 does not penalise a match of all words in one chunk.
    same = ["a b c"], [["a b c"]]
    assert our_meteor(*same) == 1
    assert nltk_meteor_score(*same) == pytest.approx(1 - 0.6 * (1 / 3) ** 0.2)


def words_of(outputs, references):
    return ptb.tokenize(outputs), [ptb.tokenize(texts) for texts in references]


def coco(scorer, outputs, references):
    """A score of pycocoevalcap. Ours is the same definition; there is nothing in which they differ."""
    return scorer.compute_score(dict(enumerate(references)), {i: [output] for i, output in enumerate(outputs)})[0]


@on_systems
def test_cider_is_pycocoevalcaps(outputs_of, system):
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    pair = words_of(*outputs_of(system))
    check(lambda *pair: cider(*pair).score(), lambda *pair: coco(scorer, *pair), *pair)


@on_systems
def test_rouge_l_is_pycocoevalcaps(outputs_of, system):
    scorer = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    pair = words_of(*outputs_of(system))
    check(lambda *pair: rouge_l(*pair).score(), lambda *pair: coco(scorer, *pair), *pair)
