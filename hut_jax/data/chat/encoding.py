"""Instructions and conversations as tokens, each with whether it is learned."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from hut_jax.core.errors import UserError
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.template import template_of
from hut_jax.data.chat.turns import Conversation, Learned, parse
from hut_jax.data.sequences import Sequences
from hut_jax.data.tokenizer import Tokenizer


class Example(NamedTuple):
    """An example's tokens, and which of them are learned."""

    tokens: Int32[np.ndarray, " length"]
    learned: Bool[np.ndarray, " length"]


class Encoder:
    """Encodes lines, cut to the first `max_length` tokens.

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

    def __call__(self, index: int) -> Example | None:
        """The example of a line; None if nothing that is learned is left of it after the cut.

        Raises:
            UserError: the line is malformed. The message has its number.
        """
        number, line = self._lines[index]
        try:
            said = parse(line)
            if isinstance(said, Conversation):
                if self._render is None:
                    raise UserError(
                        "it has messages, and the tokenizer has no chat template; name a file with one in "
                        "config.data.template"
                    )
                said = said.learned(self._render)
            example = encode(said, self._tokenizer)
            if self.vocab_size and (largest := int(example.tokens.max())) >= self.vocab_size:
                raise UserError(
                    f"it has the token {self._tokenizer.decode([largest])!r}, which was added to the tokenizer, and "
                    f"the model has a vocabulary of {self.vocab_size:,}; set config.tokenizer to one without it"
                )
        except UserError as error:
            raise UserError(f"{self._lines.path}, line {number}: {error}") from None
        example = Example(*(part[: self.max_length] for part in example))
        return example if example.learned[1:].any() else None


def encode(said: Learned, tokenizer: Tokenizer) -> Example:
    """The tokens of a text. A token that begins in a learned span is learned, and so is the end token that follows.

    Raises:
        UserError: no token is learned.
    """
    ids, begins = tokenizer.encode_places(said.text)
    learned = np.zeros(len(ids), np.bool_)
    for first, last in said.spans:
        learned |= (begins >= first) & (begins < last)
    if said.ends:
        ids, learned = np.append(ids, np.int32(tokenizer.eos_id)), np.append(learned, True)
    if not learned[1:].any():
        raise UserError("its tokens leave nothing to learn")
    return Example(ids, learned)


class Turns(Sequences):
    """Sequences of which any tokens are predicted, not only the last ones.

    Args:
        examples: the tokens, and which are learned.
    """

    def __init__(self, tokens: Int32[np.ndarray, " tokens"], learned: Bool[np.ndarray, " tokens"], starts, ends):
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
