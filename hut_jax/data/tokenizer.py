"""GPT-2's byte-level BPE: text to token ids and back."""

import json
import os
from collections.abc import Iterable, Sequence

import tokenizers

from hut_jax.core.errors import UserError
from hut_jax.data.byte_level_bpe import bpe_files, byte_level_bpe, read_tokenizer_json
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.data.tokenizer_files import (
    MERGES,
    SETTINGS,
    TOKENIZER_JSON,
    VOCAB_JSON,
    find_folder,
    read_json,
    read_merges,
    write_files,
)

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(BaseTokenizer):
    """Byte-level BPE with the one special token `<|endoftext|>`, which `eos_id` names.

    Args:
        vocab: token -> id, tokens written in GPT-2's alphabet of 256 printable stand-ins for bytes.
        merges: pairs of tokens, the earliest merged first.
        source: where they come from, for error messages.

    Raises:
        UserError: the vocabulary lacks `<|endoftext|>` or a byte, its ids are not 0, 1, 2, ..., or a merge does
            not fit it.
    """

    def __init__(self, vocab: dict[str, int], merges: Sequence[tuple[str, str]], *, source: str = "vocabulary"):
        self._vocab = vocab
        self._merges = list(merges)
        super().__init__(byte_level_bpe(vocab, self._merges, source=source))
        if END_OF_TEXT not in vocab:
            raise UserError(f"{source} has no {END_OF_TEXT!r} among its {len(vocab)} tokens, so it is not GPT-2's kind")
        self.eos_id = vocab[END_OF_TEXT]
        self.vocab_size = len(vocab)

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The ids of one text; see `encode_batch`."""
        return self.encode_batch([text], parse_special=parse_special)[0]

    def encode_batch(self, texts: Iterable[str], *, parse_special: bool = False) -> list[list[int]]:
        """The ids of many texts, encoded in parallel. Nothing is added before or after.

        Args:
            texts: any Unicode.
            parse_special: whether `<|endoftext|>` in a text is the special token. By default it is ordinary text,
                so that no user's text can end a document.
        """
        if not parse_special:
            return super().encode_batch(texts)
        parts = [text.split(END_OF_TEXT) for text in texts]
        encoded = iter(self.encode_batch([piece for pieces in parts for piece in pieces]))
        joined = []
        for pieces in parts:
            ids = next(encoded)
            for _ in pieces[1:]:
                ids = [*ids, self.eos_id, *next(encoded)]
            joined.append(ids)
        return joined

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that `load_tokenizer` and transformers' `AutoTokenizer` read.

        Raises:
            UserError: the folder cannot be made or written.
        """
        special = tokenizers.Tokenizer.from_str(self._backend.to_str())
        special.add_special_tokens([END_OF_TEXT])
        settings = {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        files = {TOKENIZER_JSON: special.to_str(), SETTINGS: json.dumps(settings, indent=2) + "\n"}
        write_files(folder, bpe_files(self._vocab, self._merges) | files)


def save_bpe(folder: str | os.PathLike[str], vocab: dict[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Write `vocab.json` and `merges.txt`, which are all that `load_tokenizer` needs.

    Raises:
        UserError: the folder cannot be made or written.
    """
    write_files(folder, bpe_files(vocab, merges))


def load_tokenizer(name: str | os.PathLike[str]) -> Tokenizer:
    """GPT-2's tokenizer from a folder or by its hub name; `load_encoder_tokenizer` loads RoBERTa's and BERT's.

    Args:
        name: a folder holding `vocab.json` and `merges.txt`, or else `tokenizer.json`; or a name on the Hugging
            Face hub, such as `gpt2`, which is downloaded once and then found in the hub's cache.

    Raises:
        UserError: there is no such folder or name, a file is missing or malformed, or it is no GPT-2 tokenizer.
    """
    folder = find_folder(name)
    if (folder / VOCAB_JSON).is_file() and (folder / MERGES).is_file():
        vocab, merges = read_json(folder / VOCAB_JSON), read_merges(folder / MERGES)
        return Tokenizer(vocab, merges, source=str(folder / VOCAB_JSON))
    if (folder / TOKENIZER_JSON).is_file():
        vocab, merges = read_tokenizer_json(folder / TOKENIZER_JSON)
        return Tokenizer(vocab, merges, source=str(folder / TOKENIZER_JSON))
    found = [file for file in (VOCAB_JSON, MERGES, TOKENIZER_JSON) if (folder / file).is_file()]
    raise UserError(
        f"no tokenizer in {folder}: wanted vocab.json and merges.txt, or tokenizer.json; "
        f"found {' and '.join(found) or 'none of them'}"
    )
