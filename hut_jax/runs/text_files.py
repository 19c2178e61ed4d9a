"""The files that commands read and write for a user: a text, a pair or a prediction a line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hut_jax.core.errors import UserError, one_line
from hut_jax.core.files import lines_of, read_text, write_text
from hut_jax.runs.workdir import check_writable

JSON_LINES = (".jsonl", ".ndjson", ".json")
"""The endings of the names of JSONL files."""
PREDICTION = "prediction"


class Texts(NamedTuple):
    """The texts of a file.

    Attributes:
        texts: one text or a pair for each line.
        header: whether a line before them names the columns.
    """

    texts: list[tuple[str, ...]]
    header: bool


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, none of them empty.

    Raises:
        UserError: the file cannot be read, has no lines, or has an empty line.
    """
    lines = lines_of(read_text(path, encoding="utf-8-sig"))
    if not lines:
        raise UserError(f"{path} is empty; it should hold one text a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"{path}, line {number} is empty: each line should hold a text")
    return lines


def read_texts(path: Path, names: Sequence[Sequence[str]]) -> Texts:
    r"""One text or one pair a line, from a TSV or a JSONL file. Texts are not changed.

    TSV: the texts between tabs; quotation marks are text. If the first line names the columns, each text is taken from
    its column, and other columns are left alone. JSONL, which the file's name tells: an object with a field for each
    text, a list of the texts, or, for one text, a JSON string.

    Args:
        path: the file.
        names: the names that a column or a field of each text may have.

    Raises:
        UserError: the file cannot be read, is empty or a CSV file, or a line does not hold the texts.
    """
    if path.suffix.lower() == ".csv":
        raise UserError(f"{path}: commas are part of texts; write it with tabs between the columns, or as JSONL")
    lines = read_lines(path)
    if path.suffix.lower() in JSON_LINES:
        found = Texts([_of_json(f"{path}, line {n}", line, names) for n, line in enumerate(lines, start=1)], False)
    else:
        found = _of_tsv(path, [line.split("\t") for line in lines], names)
    for number, texts in enumerate(found.texts, start=1 + found.header):
        if not any(text.strip() for text in texts):
            raise UserError(f"{path}, line {number}: {_all(names)} {'are' if len(names) > 1 else 'is'} empty")
    if not found.texts:
        raise UserError(f"{path} has a header and no texts")
    return found


def write_labels(path: Path, labels: Sequence[str | float], *, header: bool) -> None:
    """Write one prediction a line: as a JSON object where the file's name tells JSONL, and else as it is.

    Args:
        path: the file.
        labels: the predictions.
        header: whether the first line names the column. A JSONL file has no header.
    """
    if path.suffix.lower() in JSON_LINES:
        lines = [json.dumps({PREDICTION: label}, ensure_ascii=False) for label in labels]
    else:
        lines = [*([PREDICTION] if header else []), *map(str, labels)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def check_output(output: Path) -> None:
    """Check that this file can be written.

    Raises:
        UserError: it cannot be written.
    """
    try:
        if output.is_dir():
            reason = "it is a folder"
        elif not output.parent.is_dir():
            reason = f"there is no folder {output.parent}"
        elif output.exists() and not output.is_file():
            reason = "it is not a regular file"
        else:
            reason = ""
    except OSError as error:  # such as a name that is too long
        reason = str(error.strerror)
    if reason:
        raise UserError(f"--output={output} cannot be written: {reason}")
    check_writable(output.resolve().parent, "the folder of --output,")


def _of_tsv(path: Path, rows: Sequence[Sequence[str]], names: Sequence[Sequence[str]]) -> Texts:
    first = rows[0]
    named = [next((first.index(name) for name in same if name in first), None) for same in names]
    header = any(column is not None for column in named)
    columns = [column for column in named if column is not None] if header else list(range(len(names)))
    if len(columns) < len(names):
        lacking = _either(names[named.index(None)])
        raise UserError(f"{path}, line 1: no column {lacking}; found {', '.join(map(repr, first[:8]))}")
    count = len(first) if header else len(names)
    for number, fields in enumerate(rows, start=1):
        if len(fields) != count:
            expected = f"the header has {count}" if header else f"there should be {count}: {_all(names)}"
            raise UserError(f"{path}, line {number}: {len(fields)} fields between tabs where {expected}")
    return Texts([tuple(fields[column] for column in columns) for fields in rows[header:]], header)


def _of_json(where: str, line: str, names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    try:
        value: Any = json.loads(line)
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where} is not JSON: {one_line(error)}") from None
    if isinstance(value, dict):
        fields = [next((name for name in same if name in value), None) for same in names]
        if None in fields:
            lacking = _either(names[fields.index(None)])
            raise UserError(f"{where}: no field {lacking}; found {', '.join(map(repr, [*value][:8])) or 'none'}")
        value = [value[field] for field in fields]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) != len(names) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: {_all(names)} should be {'texts' if len(names) > 1 else 'a text'}")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: half of a surrogate pair, such as \\ud83d alone, is no text") from None
    return tuple(texts)


def _all(names: Sequence[Sequence[str]]) -> str:
    return " and ".join(repr(same[-1]) for same in names)


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, dict.fromkeys(names)))
