"""Words and n-grams as mteval-v13a counts them, for its BLEU and its NIST.

The rules are those of NIST's Perl script in the version that the E2E challenge adapted to varying numbers of
references: its default tokenization, insensitive to the case of ASCII letters only, and without empty references.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hut_jax.core.errors import UserError

LONGEST = 5  # NIST's n-grams; BLEU's have at most four words

Ngram = tuple[str, ...]

# Perl's \s on Unicode text. Python's \s also has the four separators from 0x1c on, word characters in Perl.
_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPACES = re.compile(f"[{_SPACE}]+")
_ENTITIES = (
    ("&quot;", '"'),
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
)  # replaced one after the other, so that &amp;lt; becomes <
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_SYMBOL = re.compile(r"([!-&(-+/:-@\[-`{-~])")  # of ASCII, without the apostrophe, comma, hyphen and full stop
_STOP_AFTER_NONDIGIT = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_NONDIGIT = re.compile(r"([.,])([^0-9])")
_HYPHEN_AFTER_DIGIT = re.compile(r"([0-9])(-)")


def tokenize(text: str) -> list[str]:
    """A text's words in lower case. Punctuation is separate, except within a number or a word."""
    text = _SPACES.sub(" ", text).replace("<skipped>", "")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} ".translate(_LOWER)
    text = _SYMBOL.sub(r" \1 ", text)
    text = _STOP_AFTER_NONDIGIT.sub(r"\1 \2 ", text)
    text = _STOP_BEFORE_NONDIGIT.sub(r" \1 \2", text)
    text = _HYPHEN_AFTER_DIGIT.sub(r"\1 \2 ", text)
    return _SPACES.sub(" ", text).strip(" ").split(" ") if text.strip(" ") else []


def count_ngrams(words: Sequence[str], longest: int = LONGEST) -> Counter[Ngram]:
    """The counts of a text's n-grams of 1 to `longest` words."""
    counts: Counter[Ngram] = Counter()
    for n in range(1, longest + 1):
        counts.update(zip(*[words[i:] for i in range(n)], strict=False))
    return counts


@dataclass(frozen=True)
class Reference:
    """The counts of a reference's n-grams, and its length in words."""

    ngrams: Counter[Ngram]
    length: int


@dataclass(frozen=True)
class Segment:
    """An output and its references.

    Attributes:
        matches: the counts of the output's n-grams, clipped to the largest count in a reference.
        length: of the output, in words.
        references: at least one.
    """

    matches: dict[Ngram, int]
    length: int
    references: Sequence[Reference]

    def totals(self, longest: int) -> list[int]:
        """The numbers of the output's n-grams of 1 to `longest` words."""
        return [max(self.length - n, 0) for n in range(longest)]

    def matched(self, longest: int) -> list[int]:
        """The numbers of those that match."""
        matched = [0] * longest
        for ngram, count in self.matches.items():
            if len(ngram) <= longest:
                matched[len(ngram) - 1] += count
        return matched


def count_references(references: Sequence[Sequence[str]]) -> list[list[Reference]]:
    """The n-grams of every segment's references.

    Raises:
        UserError: there are no segments, or one has no references.
    """
    counted = []
    for i, texts in enumerate(references):
        if not texts:
            raise UserError(f"output {i + 1} has no reference; at least one is expected")
        words = [tokenize(text) for text in texts]
        counted.append([Reference(count_ngrams(each), len(each)) for each in words])
    if not counted:
        raise UserError("no outputs and no references; at least one of each is expected")
    return counted


def match_outputs(outputs: Sequence[str], references: Sequence[Sequence[Reference]]) -> list[Segment]:
    """Each output with its references.

    Raises:
        UserError: there are not as many outputs as groups of references.
    """
    if len(outputs) != len(references):
        raise UserError(f"{len(outputs)} outputs for {len(references)} groups of references; one for each is expected")
    segments = []
    for output, counted in zip(outputs, references, strict=True):
        words = tokenize(output)
        matches = {}
        for ngram, count in count_ngrams(words).items():
            most = max(reference.ngrams.get(ngram, 0) for reference in counted)
            if most:
                matches[ngram] = min(count, most)
        segments.append(Segment(matches, len(words), counted))
    return segments
