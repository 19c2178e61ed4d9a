"""Reading and writing the files that tokenizers come in, from a folder or from the hub."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hut_jax.core.errors import UserError, one_line
from hut_jax.core.files import write_text

VOCAB_JSON, MERGES, VOCAB_TXT, TOKENIZER_JSON = "vocab.json", "merges.txt", "vocab.txt", "tokenizer.json"
SETTINGS, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
FILES = (VOCAB_JSON, MERGES, VOCAB_TXT, TOKENIZER_JSON, SETTINGS, SPECIAL_TOKENS)


def find_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of that name, or else the one that the hub's files of that name were downloaded to.

    Raises:
        UserError: there is neither.
    """
    folder = Path(name)
    return folder if folder.is_dir() else _download(os.fspath(name))


def read_text(path: Path) -> str:
    """A UTF-8 file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error


def read_json(path: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
        UserError: the file cannot be read or is malformed; the message has the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: malformed JSON: {error.msg}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` and `special_tokens_map.json` as one, special tokens as plain text; empty without them.

    Raises:
        UserError: a file is there and is no JSON object.
    """
    settings: dict[str, Any] = {}
    for name in (SPECIAL_TOKENS, SETTINGS):
        if (folder / name).is_file():
            values = read_json(folder / name)
            if not isinstance(values, dict):
                raise UserError(f"{folder / name} holds a {type(values).__name__}; a JSON object is wanted")
            settings |= {key: _plain(value) for key, value in values.items()}
    return settings


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of a `merges.txt`, the earliest merged first.

    Raises:
        UserError: the file cannot be read, or a line is no pair.
    """
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise UserError(f"{path}, line {number}: a merge is two tokens with a space between, not {line[:40]!r}")
        merges.append((pair[0], pair[1]))
    return merges


def write_files(folder: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Write each named text whole or not at all, the folder made where it is not there.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {folder}: {error.strerror}") from error


def _plain(value: Any) -> Any:
    """A special token is written as its text, or as an object with the text and how it is to be found."""
    return value["content"] if isinstance(value, dict) and isinstance(value.get("content"), str) else value


def _download(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise UserError(f"no tokenizer folder {name!r}, and that is no hub name either") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"no tokenizer folder {name!r}, and no hub name either that can be reached or is in the hub's cache"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"no tokenizer folder {name!r}, and the hub refuses that name: {one_line(error)}") from error
