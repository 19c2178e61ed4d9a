"""GLUE's official TSV files: rows of texts and a label, read with errors that name the line."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import read_text
from hut_jax.data.glue.tasks import GLUE_TASKS, GlueTask

# CoLA's labelled files have no header. Their columns: source, label, the author's mark, sentence.
_COLA_COLUMNS = ("source", "label", "mark", "sentence")


class GlueExample(NamedTuple):
    """One or two texts, their label (a class, a value, or None in a test split), and the row's number in its file."""

    texts: tuple[str, ...]
    label: int | float | None
    row: int


class GlueSplit(NamedTuple):
    """The examples of a file in order, and the number of broken rows that were left out."""

    examples: list[GlueExample]
    dropped: int


def find_files(task: GlueTask, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of the task's splits. Those of test splits may be missing.

    Args:
        task: the task.
        folder: the folder that holds `CoLA`, `SST-2` and so on, or the task's own folder. Case, hyphens and underscores
            of their names do not matter, so that TFDS' names of the tasks are accepted too.

    Raises:
        UserError: there is no such folder, it has no folder for the task, or the task's folder lacks a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r}; give one that holds {task.folder}/ as config.data.dir")
    own = folder_of(task, folder)
    if own is None:
        held = [name for name, other in GLUE_TASKS.items() if folder_of(other, folder)]
        raise UserError(
            f"{folder} has no folder {task.folder} for the task {task.name}; "
            f"it holds {', '.join(held) if held else 'no task of GLUE'}"
        )
    paths = {split: own / name for split, name in task.files.items() if (own / name).is_file()}
    missing = [name for split, name in task.files.items() if split not in paths and not split.startswith("test")]
    if missing:
        found = sorted(path.name for path in own.glob("*.tsv"))
        raise UserError(f"{own} lacks {', '.join(missing)}; its TSV files: {', '.join(found) or 'none'}")
    return paths


def folder_of(task: GlueTask, folder: Path) -> Path | None:
    """The task's folder within `folder`, or `folder` itself if it is the task's; None if neither is there."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and _plain(path.name) == task.name)
    if inside:
        return inside[0]
    return folder if _plain(folder.resolve().name) == task.name else None


def read_split(task: GlueTask, split: str, path: str | os.PathLike[str]) -> GlueSplit:
    """The rows of one file.

    Fields are separated by tabs. Quotation marks are text, since sentences of MRPC and RTE hold unpaired ones. A BOM,
    the line ends of any system and empty lines are allowed. Texts are not changed. One text of a pair may be empty.

    A row must have as many fields as the header. Only QQP's official files hold broken rows: a line break within a
    question cuts them in two. In QQP, rows with too few fields or without a label are left out and counted, and fields
    past the header's columns are ignored, as in TFDS. No row of a test split is left out, since the test server expects
    a prediction for each row.

    Args:
        task: the task.
        split: a key of `task.files`. A test split has no labels, and its rows are numbered in the file.
        path: the file.

    Raises:
        UserError: the file cannot be read, is not UTF-8, lacks a column, holds no row, or a row is malformed.
    """
    rows = ((number, line.split("\t")) for number, line in enumerate(_read_lines(path), start=1) if line)
    test = split.startswith("test")
    has_header = task.header or test
    wanted = [*task.texts, task.index] if test else [*task.texts, task.label]
    header = next(rows, (0, []))[1] if has_header else list(_COLA_COLUMNS)
    if not header:
        raise UserError(f"{path}, line 1: the file is empty; a header with {_quoted(wanted)} and rows are expected")
    columns = _find_columns(path, header, wanted)
    examples, count = [], 0
    for count, (number, fields) in enumerate(rows, start=1):
        where = f"{path}, line {number}"
        if task.broken_lines and not test:
            if len(fields) < len(header) or not fields[columns[task.label]]:
                continue
        elif len(fields) != len(header):
            raise UserError(f"{where}: {len(fields)} fields between tabs where {_has(has_header, header)}")
        texts = tuple(fields[columns[name]] for name in task.texts)
        if not any(text.strip() for text in texts):
            raise UserError(f"{where}: {' and '.join(task.texts)} {'are' if len(texts) > 1 else 'is'} empty")
        if test:
            examples.append(GlueExample(texts, None, _index(fields[columns[task.index]], task, where)))
        else:
            examples.append(GlueExample(texts, _label(fields[columns[task.label]], task, where), count - 1))
    if not examples:
        which = f"none of the {count} rows is whole" if count else "there are no rows"
        raise UserError(
            f"{path}, line {1 + has_header}: {which}; fields between tabs with {_quoted(wanted)} are expected"
        )
    return GlueSplit(examples, count - len(examples))


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    return read_text(path, "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _find_columns(path: str | os.PathLike[str], header: list[str], wanted: list[str]) -> Mapping[str, int]:
    for name in wanted:
        if header.count(name) != 1:
            many = "more than one column" if name in header else "no column"
            raise UserError(f"{path}, line 1: {many} {name!r}; found {_quoted(header)}, wanted {_quoted(wanted)}")
    return {name: header.index(name) for name in wanted}


def _has(has_header: bool, header: list[str]) -> str:
    return f"the header has {len(header)}" if has_header else f"there should be {len(header)}: {', '.join(header)}"


def _label(text: str, task: GlueTask, where: str) -> int | float:
    if not task.regression:
        written = task.labels if task.named else tuple(map(str, range(len(task.labels))))
        if text not in written:
            raise UserError(f"{where}: {task.label} is {text[:40]!r}; {nearest(text[:40], written)}")
        return written.index(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not task.low <= value <= task.high:
        raise UserError(
            f"{where}: {task.label} is {text[:40]!r}; a number from {task.low:g} to {task.high:g} is expected"
        )
    return value


def _index(text: str, task: GlueTask, where: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{where}: {task.index} is {text[:40]!r}; the row's number is expected")
    return int(text)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names[:16])) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
