"""E2E's CSV files: rows of a meaning representation and a text, read with errors that name the line."""

import csv
import io
import os
from pathlib import Path
from typing import NamedTuple

from hut_jax.core.errors import UserError
from hut_jax.core.files import read_text

# The official names.
FILES = {"train": "trainset.csv", "validation": "devset.csv", "test": "testset_w_refs.csv"}


class Record(NamedTuple):
    """A meaning representation, such as `name[Alba], food[Welsh]`, and a text that expresses it."""

    mr: str
    ref: str


def find_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The file of each split.

    Raises:
        UserError: the folder or one of its files is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r}; give one with {', '.join(FILES.values())} as config.data.dir")
    paths = {split: folder / name for split, name in FILES.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        found = sorted(path.name for path in folder.glob("*.csv"))
        advice = (
            f"CSV files to rename: {', '.join(found)}" if found else "to download them, leave config.data.dir empty"
        )
        raise UserError(f"{folder} lacks {', '.join(missing)}; {advice}")
    return paths


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """The rows of one file in order: the columns `mr` and `ref`, unchanged. A BOM and CRLF are allowed.

    Raises:
        UserError: the file cannot be read, is not UTF-8, lacks a column, holds no row, or a row is malformed.
    """
    text = read_text(path, "utf-8-sig")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    records = []
    header: list[str] | None = None
    start = 1
    try:
        for row in rows:
            if header is None and row:
                header = row
                mr, ref = _columns(path, header)
            elif row:
                if len(row) != len(header or ()):
                    raise UserError(f"{path}, line {start}: {len(row)} fields where the header has {len(header or ())}")
                if not row[mr].strip() or not row[ref].strip():
                    raise UserError(f"{path}, line {start}: {'ref' if row[mr].strip() else 'mr'} is empty")
                records.append(Record(row[mr], row[ref]))
            start = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: malformed CSV: {error}") from error
    if header is None:
        raise UserError(f"{path} is empty; a header line mr,ref and rows are expected")
    if not records:
        raise UserError(f"{path} has a header and no rows")
    return records


def _columns(path: str | os.PathLike[str], header: list[str]) -> tuple[int, int]:
    for name in ("mr", "ref"):
        if header.count(name) != 1:
            many = "more than one column" if name in header else "no column"
            raise UserError(
                f"{path}, line 1: {many} {name!r}; found {', '.join(map(repr, header))}, wanted 'mr', 'ref'"
            )
    return header.index("mr"), header.index("ref")
