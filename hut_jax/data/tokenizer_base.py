"""What every tokenizer does: text to token ids and back."""

import os
from collections.abc import Iterable

import tokenizers

from hut_jax.core.errors import UserError


class BaseTokenizer:
    """A tokenizer of the `tokenizers` library in which no special token is registered, so that text stays text.

    Attributes:
        eos_id: the token that ends a text.
        vocab_size: the number of token ids.
    """

    eos_id: int
    vocab_size: int

    def __init__(self, backend: tokenizers.Tokenizer):
        self._backend = backend

    def encode(self, text: str) -> list[int]:
        """The ids of one text; see `encode_batch`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of many texts, any Unicode, encoded in parallel. Nothing is added before or after."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            UserError: an id is not in the vocabulary.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(f"token id {i} is not in the vocabulary of 0 to {self.vocab_size - 1}")
        return self._backend.decode(ids, skip_special_tokens=False)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that this library and transformers read.

        Raises:
            UserError: the folder cannot be made or written.
        """
        raise NotImplementedError
