"""Instructions and conversations as tokens, each with whether it is learned."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from hut_jax.core.errors import UserError
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.template import template_of
from hut_jax.data.chat.turns import Conversation, Learned, parse
from hut_jax.data.sequences import Sequences
from hut_jax.data.tokenizer import Tokenizer

_SURE = 8
"""Tokens before a character that are compared: what stands further ahead does not change them."""


class Example(NamedTuple):
    """An example's tokens, and which of them are learned."""

    tokens: Int32[np.ndarray, " length"]
    learned: Bool[np.ndarray, " length"]


class Sample(NamedTuple):
    """Examples of some lines, and how many of them were cut, or left out since the cut left nothing to learn."""

    examples: list[Example]
    cut: int
    dropped: int


class Encoder:
    """Encodes lines as examples, cut to the first `max_length` tokens.

    Args:
        lines: the file's.
        tokenizer: the base's.
        max_length: the most tokens of an example.

    Attributes:
        max_length: the most tokens of an example.
        vocab_size: the model's, if it is known: a larger token is refused.
    """

    def __init__(self, lines: Lines, tokenizer: Tokenizer, max_length: int):
        self._lines, self._tokenizer, self.max_length = lines, tokenizer, max_length
        self._render = template_of(tokenizer)
        self._marks = tuple(tokenizer.auto.get_added_vocab())
        self.vocab_size: int | None = None

    def check(self, indices: Iterable[int]) -> None:
        """Check that these lines have one of the forms.

        Raises:
            UserError: a line is malformed. The message has its number.
        """
        for index in indices:
            number, line = self._lines[index]
            try:
                parse(line)
            except UserError as error:
                raise UserError(f"{self._lines.path}, line {number}: {error}") from None

    def __call__(self, index: int) -> list[Example]:
        """The examples of a line, without those of which the cut leaves nothing to learn.

        Raises:
            UserError: the line is malformed. The message has its number.
        """
        return self.sample([index]).examples

    def sample(self, indices: Iterable[int]) -> Sample:
        """The examples of some lines.

        Raises:
            UserError: a line is malformed. The message has its number.
        """
        whole = [example for index in indices for example in self._whole(index)]
        kept = [short for example in whole if (short := self._cut(example)) is not None]
        longer = sum(len(example.tokens) > self.max_length for example in whole)
        return Sample(kept, longer - (dropped := len(whole) - len(kept)), dropped)

    def _cut(self, example: Example) -> Example | None:
        short = Example(*(part[: self.max_length] for part in example))
        return short if short.learned[1:].any() else None

    def _whole(self, index: int) -> list[Example]:
        number, line = self._lines[index]
        try:
            examples = [encode(text, self._tokenizer) for text in self._texts(parse(line))]
            largest = max(int(example.tokens.max()) for example in examples)
            if self.vocab_size and largest >= self.vocab_size:
                raise UserError(
                    f"it has the token {self._tokenizer.decode([largest])!r}, which was added to the tokenizer, and "
                    f"the model has a vocabulary of {self.vocab_size:,}; set config.tokenizer to one without it"
                )
        except UserError as error:
            raise UserError(f"{self._lines.path}, line {number}: {error}") from None
        return examples

    def _texts(self, said: Learned | Conversation) -> list[Learned]:
        """The texts to learn. One that ends in no special token gets the end token, or no answer would end."""
        if not isinstance(said, Conversation):
            return [said]
        if self._render is None:
            raise UserError(
                "it has messages, and the tokenizer has no chat template; name a file with one in config.data.template"
            )
        texts = said.learned(self._render)
        last = [one.spans[-1][1] == len(one.text) and not one.text.rstrip().endswith(self._marks) for one in texts]
        return [one._replace(ends=ends) for one, ends in zip(texts, last, strict=True)]


def encode(said: Learned, tokenizer: Tokenizer) -> Example:
    """The tokens of a text. A token that begins in a learned span is learned, and so is the end token that follows.

    Raises:
        UserError: no token is learned.
    """
    ids, at = _continued(said.text, [first for first, _ in said.spans], tokenizer)
    learned = np.zeros(len(ids), np.bool_)
    for first, last in said.spans:
        learned |= (at >= first) & (at < last)
    if said.begins:
        whole = with_begin(ids.tolist(), tokenizer)
        learned = np.pad(learned, (len(whole) - len(ids), 0))
        ids = np.array(whole, np.int32)
    if said.ends:
        ids, learned = np.append(ids, np.int32(tokenizer.eos_id)), np.append(learned, True)
    if not learned[1:].any():
        raise UserError("its tokens leave nothing to learn")
    return Example(ids, learned)


def with_begin(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The tokens of a plain text after those that the tokenizer adds in front, unless the text spells them out."""
    begin = tokenizer.begin_ids
    return ids if ids[: len(begin)] == begin else begin + ids


def _continued(
    text: str, starts: Iterable[int], tokenizer: Tokenizer
) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The tokens of a text, and the characters at which they begin.

    The text before each of `starts` has the tokens that it has alone: generation sees no others. A space at its end,
    say, is a token of its own, and no part of the next word.
    """
    ids, places = tokenizer.encode_places(text)
    begins, cuts = places[:, 0], []
    for before, start in pairwise([0, *(start for start in starts if 0 < start < len(text))]):
        alone, end = tokenizer.encode(text[before:start]), int(np.searchsorted(begins, start))
        tail = alone[-min(_SURE, len(alone) - 1) :] if before else alone
        if ids[max(0, end - len(tail)) : end].tolist() != tail or not (before or end == len(tail)):
            cuts.append(start)
    if not cuts:
        return ids, begins
    parts = [tokenizer.encode_places(text[: cuts[0]])]
    for first, last in pairwise([*cuts, len(text)]):
        for front in ("\n", "a", ""):  # some tokenizers put a space before the first word of a text
            known = tokenizer.encode(front)
            part, places = tokenizer.encode_places(front + text[first:last])
            if part[: len(known)].tolist() == known:
                break
        parts.append((part[len(known) :], places[len(known) :] + first - len(front)))
    ids, places = (np.concatenate(some) for some in zip(*parts, strict=True))
    return ids, places[:, 0]


class Turns(Sequences):
    """Sequences of which any tokens are predicted, not only the last ones.

    Args:
        tokens: all tokens.
        learned: which of them are predicted.
        starts: where each sequence starts in `tokens`.
        ends: where each sequence ends, exclusive.
    """

    def __init__(
        self,
        tokens: Int32[np.ndarray, " tokens"],
        learned: Bool[np.ndarray, " tokens"],
        starts: Int64[np.ndarray, " n"],
        ends: Int64[np.ndarray, " n"],
    ):
        first = [1 + int(np.argmax(learned[s + 1 : e])) for s, e in zip(starts, ends, strict=True)]
        super().__init__(tokens, starts, ends, np.asarray(first, np.int32))
        self.learned = learned
        self._slots = np.array([int(learned[s + 1 : e].sum()) for s, e in zip(starts, ends, strict=True)], np.int64)

    @classmethod
    def of(cls, examples: Sequence[Example]) -> "Turns":
        """The sequences of these examples."""
        ends = np.cumsum([len(one.tokens) for one in examples], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        tokens, learned = (np.concatenate(parts) for parts in zip(*examples, strict=True))
        return cls(tokens, learned, starts, ends)

    @property
    def slots(self) -> Int64[np.ndarray, " n"]:
        """The number of predicted tokens of each sequence."""
        return self._slots

    def predicted(self, index: int) -> Int64[np.ndarray, " predicted"]:
        """The indices of the predicted tokens within a sequence."""
        return 1 + np.flatnonzero(self.learned[self.starts[index] + 1 : self.ends[index]])

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "Turns":
        """Some of the sequences, in the order of `rows`."""
        return Turns(self.tokens, self.learned, self.starts[rows], self.ends[rows])
