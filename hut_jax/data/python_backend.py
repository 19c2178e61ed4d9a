"""A tokenizer that transformers writes in Python alone, with the methods of one of the package tokenizers."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Encoding(NamedTuple):
    """One example's tokens; see `tokenizers.Encoding`. What was cut is not kept, only whether something was."""

    ids: list[int]
    type_ids: list[int]
    overflowing: bool


class PythonBackend:
    """Stands for `tokenizers.Tokenizer`. Such tokenizers are slow: thousands of texts a second.

    Attributes:
        encode_special_tokens: whether a special token that a text spells out is cut like any other text.
    """

    def __init__(self, auto: Any):
        self.encode_special_tokens = False
        self._auto = auto
        self._known = {*auto.get_vocab().values()}
        self._most: int | None = None

    def no_padding(self) -> None:
        """Nothing is padded."""

    def no_truncation(self) -> None:
        """Cut nothing."""
        self._most = None

    def enable_truncation(self, max_length: int, *, strategy: str, direction: str) -> None:
        """Cut examples to `max_length` tokens from now on."""
        assert strategy == "longest_first"
        assert direction == self._auto.truncation_side
        self._most = max_length

    def num_special_tokens_to_add(self, pair: bool) -> int:
        """The special tokens around one text or two."""
        return self._auto.num_special_tokens_to_add(pair)

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """The ids of the tokens."""
        return self._auto.get_vocab()

    def encode_batch_fast(self, texts: Iterable[str], add_special_tokens: bool) -> list[Encoding]:
        """Each text's tokens, without special ones around them."""
        assert not add_special_tokens
        return [Encoding(ids, [0] * len(ids), False) for ids in map(self._ids, texts)]

    def encode_batch(self, examples: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """Each text or pair of texts with its special tokens, cut to the length."""
        return [self._encode((one,) if isinstance(one, str) else one) for one in examples]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of the ids, without those that are no tokens."""
        return self._auto.decode([i for i in ids if i in self._known], skip_special_tokens=skip_special_tokens)

    def _ids(self, text: str) -> list[int]:
        tokens = self._auto.tokenize(text, split_special_tokens=self.encode_special_tokens)
        return self._auto.convert_tokens_to_ids(tokens)

    def _encode(self, texts: tuple[str, ...]) -> Encoding:
        parts = [self._ids(text) for text in texts]
        over = sum(map(len, parts)) + self.num_special_tokens_to_add(len(parts) == 2) - (self._most or 10**9)
        for _ in range(over):  # the longer one loses a token; of two as long the second
            longer = max(range(len(parts)), key=lambda i: (len(parts[i]), i))
            del parts[longer][0 if self._auto.truncation_side == "left" else -1]
        ids = self._auto.build_inputs_with_special_tokens(*parts)
        types = self._auto.create_token_type_ids_from_sequences(*parts)
        return Encoding(ids, types, over > 0)
