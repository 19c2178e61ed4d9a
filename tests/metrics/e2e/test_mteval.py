from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.metrics.e2e.mteval import count_ngrams, count_references, match_outputs, tokenize

texts = st.text(alphabet="abAÉé01.,-'&;£ \t\xa0()", max_size=30)

TOKENS = {
    "The Mill, a 5-star pub.": "the mill , a 5 - star pub .",
    "It costs £20.50, or 1,000.": "it costs £20.50 , or 1,000 .",
    "family-friendly isn't (very) a/b": "family-friendly isn't ( very ) a / b",
    "£20-25": "£20 - 25",
    "ABYZ @[`{": "abyz @ [ ` {",
    "a0-1 b-c 9-d e.5 f,6 7.g 8,h": "a0 - 1 b-c 9 - d e . 5 f , 6 7 . g 8 , h",
    "CAFÉ É": "cafÉ É",  # letters of ASCII alone are put in lower case
    "&quot;B&amp;B&quot; &amp;lt; &lt;skipped&gt;<skipped>": '" b & b " < < skipped >',
    "a\xa0b\u2003c\x85d\te": "a b c d e",
    "a\x1cb": "a\x1cb",  # to Perl this is no white space
    "..a,,b 5. .5 5.5": ". . a , , b 5 . . 5 5.5",
    "": "",
    " - ": "-",
}


@pytest.mark.parametrize(("text", "tokens"), TOKENS.items())
def test_words_are_those_of_the_script(text, tokens):
    assert tokenize(text) == tokens.split(" ") * bool(tokens)


@settings(max_examples=40, deadline=None)
@given(texts)
def test_only_white_space_and_capitals_are_lost(text):
    words = tokenize(text)
    assert all(words)
    assert "&" in text or "".join(words) == "".join(c.lower() if c.isascii() else c for c in text if not c.isspace())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=9), st.integers(1, 5))
def test_a_text_of_w_words_has_w_minus_n_plus_1_ngrams(words, longest):
    counts = count_ngrams(words, longest)
    for n in range(1, longest + 1):
        wanted = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        assert {g: c for g, c in counts.items() if len(g) == n} == wanted


def test_an_ngram_matches_as_often_as_in_the_reference_that_has_most_of_it():
    (segment,) = match_outputs(["a a a b"], count_references([["a b", "a a c"]]))
    assert segment.matches == {("a",): 2, ("b",): 1, ("a", "a"): 1, ("a", "b"): 1}
    assert segment.matched(4) == [3, 2, 0, 0]
    assert segment.totals(5) == [4, 3, 2, 1, 0]


def test_what_does_not_fit_together_is_told():
    with pytest.raises(UserError, match="output 2 has no reference"):
        count_references([["a"], []])
    with pytest.raises(UserError, match="no outputs and no references"):
        count_references([])
    with pytest.raises(UserError, match="2 outputs for 1 groups of references"):
        match_outputs(["a", "b"], count_references([["a"]]))
