"""GPT-2's byte-level BPE: text to token ids and back."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from hut_jax.errors import UserError

END_OF_TEXT = "<|endoftext|>"
_FILES = ("vocab.json", "merges.txt", "tokenizer.json")


class Tokenizer:
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
        _check_vocab(vocab, source)
        self._vocab = vocab
        self._merges = list(merges)
        try:
            model = models.BPE(vocab=vocab, merges=self._merges)
        except Exception as error:  # what the library raises where a merge names no token
            raise UserError(f"{source}: merges and vocabulary do not fit: {_one_line(error)}") from error
        # <|endoftext|> is not registered with the library, so that text holding those letters stays text.
        self._bpe = tokenizers.Tokenizer(model)
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.decoder = decoders.ByteLevel()
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
            return [encoding.ids for encoding in self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)]
        parts = [text.split(END_OF_TEXT) for text in texts]
        encoded = iter(self.encode_batch([piece for pieces in parts for piece in pieces]))
        joined = []
        for pieces in parts:
            ids = next(encoded)
            for _ in pieces[1:]:
                ids = [*ids, self.eos_id, *next(encoded)]
            joined.append(ids)
        return joined

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            UserError: an id is not in the vocabulary.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise UserError(f"token id {i} is not in the vocabulary of 0 to {self.vocab_size - 1}")
        return self._bpe.decode(ids, skip_special_tokens=False)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that `load_tokenizer` and transformers' `AutoTokenizer` read."""
        save_bpe(folder, self._vocab, self._merges)
        special = tokenizers.Tokenizer.from_str(self._bpe.to_str())
        special.add_special_tokens([END_OF_TEXT])
        settings = {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        _write(Path(folder) / "tokenizer.json", special.to_str())
        _write(Path(folder) / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def save_bpe(folder: str | os.PathLike[str], vocab: dict[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Write `vocab.json` and `merges.txt`, which are all that `load_tokenizer` needs.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = Path(folder)
    in_order = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "vocab.json", json.dumps(in_order, ensure_ascii=False) + "\n")
        _write(folder / "merges.txt", "\n".join(lines) + "\n")
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {folder}: {error.strerror}") from error


def load_tokenizer(name: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a folder or of a hub name.

    Args:
        name: a folder holding `vocab.json` and `merges.txt`, or else `tokenizer.json`; or a name on the Hugging
            Face hub, such as `gpt2`, which is downloaded once and then found in the hub's cache.

    Raises:
        UserError: there is no such folder or name, a file is missing or malformed, or it is no GPT-2 tokenizer.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(os.fspath(name))
    vocab_file, merges_file, json_file = (folder / file for file in _FILES)
    if vocab_file.is_file() and merges_file.is_file():
        return Tokenizer(_read_json(vocab_file), _read_merges(merges_file), source=str(vocab_file))
    if json_file.is_file():
        vocab, merges = _read_tokenizer_json(json_file)
        return Tokenizer(vocab, merges, source=str(json_file))
    found = [file for file in _FILES if (folder / file).is_file()]
    raise UserError(
        f"no tokenizer in {folder}: wanted vocab.json and merges.txt, or tokenizer.json; "
        f"found {' and '.join(found) or 'none of them'}"
    )


def _download(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_FILES)))
    except HFValidationError as error:
        raise UserError(f"no tokenizer folder {name!r}, and that is no hub name either") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"no tokenizer folder {name!r}, and no hub name either that can be reached or is in the hub's cache"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"no tokenizer folder {name!r}, and the hub refuses that name: {_one_line(error)}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {_one_line(error)}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: malformed JSON: {error.msg}") from error


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise UserError(f"{path}, line {number}: a merge is two tokens with a space between, not {line[:40]!r}")
        merges.append((pair[0], pair[1]))
    return merges


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    data = _read_json(path)
    try:
        model, splitter = data["model"], data["pre_tokenizer"]
        is_gpt2 = (
            model["type"] == "BPE"
            and splitter["type"] == "ByteLevel"
            and not splitter["add_prefix_space"]
            and splitter.get("use_regex", True)
            and data["normalizer"] is None
        )
        # Older files hold a merge as one string, newer ones as a pair.
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        vocab = model["vocab"] | {token["content"]: token["id"] for token in data.get("added_tokens", ())}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a tokenizer's JSON: {type(error).__name__} {error}") from error
    if not is_gpt2 or any(len(merge) != 2 for merge in merges):
        raise UserError(f"{path} is no byte-level BPE as GPT-2's, the one kind that hut_jax reads")
    return vocab, merges


def _check_vocab(vocab: Any, source: str) -> None:
    if not isinstance(vocab, dict) or not all(type(value) is int for value in vocab.values()):
        raise UserError(f"{source}: a vocabulary is a JSON object of token to id")
    if END_OF_TEXT not in vocab:
        raise UserError(f"{source} has no {END_OF_TEXT!r} among its {len(vocab)} tokens, so it is not GPT-2's kind")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise UserError(f"{source}: the ids of {len(vocab)} tokens should be 0 to {len(vocab) - 1}, each once")
    absent = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(vocab))
    if absent:
        raise UserError(f"{source} lacks {len(absent)} of the 256 byte tokens, {absent[0]!r} for one")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
