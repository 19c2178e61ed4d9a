"""Outputs and references as the E2E challenge's script reads them: TSV, CSV, or plain text.

A table (`.tsv` or `.csv`) has a column of MRs and a column of texts; without other columns it needs no header. Plain
text has one output or reference on each line, with an empty line between the references of two MRs.
"""

import csv
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import lines_of, read_text

# The beginnings of columns' names, in lower case and with spaces between words.
_MRS = ("mr", "src", "source", "da", "meaning", "dial act", "dialog act", "dialogue act")
_REFERENCES = ("ref", "trg", "tgt", "target", "human")
_OUTPUTS = ("out", "ref", "sys")
# Broken encodings of the pound sign and the é in some of the challenge's files.
_REPAIRS = (("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é"))


class Outputs(NamedTuple):
    """One text for each MR; the MRs are None if the file has none."""

    mrs: list[str] | None
    texts: list[str]


class References(NamedTuple):
    """The texts for each MR; the MRs are None if the file has none."""

    mrs: list[str] | None
    texts: list[list[str]]


def read_outputs(path: str | os.PathLike[str]) -> Outputs:
    """A system's outputs, in the file's order.

    Raises:
        UserError: the file cannot be read, is empty, or its name ends in .tsv or .csv and it is not a table.
    """
    if not _is_table(path):
        return Outputs(None, _lines(path))
    rows = _table(path, _OUTPUTS)
    return Outputs([mr for mr, _ in rows], [text for _, text in rows])


def read_references(path: str | os.PathLike[str]) -> References:
    """The references of each MR. In a table these are the consecutive rows with that MR.

    A plain text without empty lines has one reference for each MR.

    Raises:
        UserError: as for `read_outputs`, or two empty lines follow one another.
    """
    if _is_table(path):
        mrs: list[str] = []
        texts: list[list[str]] = []
        for mr, text in _table(path, _REFERENCES):
            if not mrs or mr != mrs[-1]:
                mrs.append(mr)
                texts.append([])
            texts[-1].append(text)
        return References(mrs, texts)
    lines = _lines(path)
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty; one reference on each line is expected")
    groups: list[list[str]] = [[]]
    for number, line in enumerate(lines, start=1):
        if line:
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
        else:
            raise UserError(f"{path}, line {number}: an MR without references; one empty line between two is expected")
    return References(None, groups if len(groups) > 1 else [[line] for line in groups[0]])


def align(outputs: Outputs, references: References) -> tuple[list[str], list[list[str]]]:
    """The outputs' texts and the references of each, in the outputs' order. If both have MRs, they are matched by MR.

    An MR may then have no output, or several, as in the challenge's script. `unanswered` lists MRs without an output.

    Raises:
        UserError: there are not as many outputs as MRs, or an output's MR is not among the references'.
    """
    groups = references.texts
    if outputs.mrs is not None and references.mrs is not None:
        by_mr: dict[str, list[str]] = {}
        for mr, texts in zip(references.mrs, references.texts, strict=True):
            by_mr.setdefault(mr, []).extend(texts)
        for mr in outputs.mrs:
            if mr not in by_mr:
                raise UserError(f"no references for the output's MR {mr!r}; {nearest(mr, by_mr, count=1)}")
        groups = [by_mr[mr] for mr in outputs.mrs]
    if len(outputs.texts) != len(groups):
        raise UserError(
            f"{len(outputs.texts)} outputs for the {len(groups)} MRs of the references; one for each is expected"
        )
    return outputs.texts, groups


def unanswered(outputs: Outputs, references: References) -> list[str]:
    """The references' MRs without an output; none if one of the two has no MRs."""
    if outputs.mrs is None or references.mrs is None:
        return []
    answered = set(outputs.mrs)
    return [mr for mr in dict.fromkeys(references.mrs) if mr not in answered]


def in_order_of(first: Outputs, outputs: Outputs, references: References) -> Outputs:
    """The outputs in the order of another system's, so that the two can be compared one by one.

    A file without MRs is in the order of the references. Both systems' outputs must have passed `align`.

    Raises:
        UserError: the two cannot be put in the same order. There are three cases. The two have different MRs, or an MR
            has several outputs and the order differs. One of the two has no MRs, and the references of an MR are not
            all consecutive. The references have no MRs, and the two differ.
    """
    if outputs.mrs == first.mrs:
        return outputs
    if references.mrs is None:
        if outputs.mrs and first.mrs:
            raise UserError(
                "the two systems have different MRs or another order, and the references have no MRs to order them by"
            )
        return outputs
    usual = list(dict.fromkeys(references.mrs))
    if len(usual) < len(references.mrs) and (outputs.mrs is None or first.mrs is None):
        raise UserError("an MR's references are not all consecutive: outputs without MRs cannot be put in order")
    theirs, wanted = outputs.mrs or usual, first.mrs or usual
    differing = list((Counter(theirs) - Counter(wanted)) + (Counter(wanted) - Counter(theirs)))
    if differing:
        raise UserError(f"the two systems have different numbers of outputs for the MR {differing[0]!r}")
    if len(set(wanted)) < len(wanted) and theirs != wanted:
        raise UserError("an MR has several outputs: the two systems must have their MRs in the same order")
    texts = dict(zip(theirs, outputs.texts, strict=True))
    return Outputs(wanted, [texts[mr] for mr in wanted])


def _is_table(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in (".tsv", ".csv")


def _lines(path: str | os.PathLike[str]) -> list[str]:
    """The file's lines without surrounding white space."""
    text = read_text(Path(path))
    if not text:
        raise UserError(f"{path} is empty; one text on each line is expected, or a table named .tsv or .csv")
    return [line.strip() for line in lines_of(text)]


def _table(path: str | os.PathLike[str], names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The MR and the text of each row."""
    lines = _lines(path)
    lines[0] = lines[0].replace("\ufeff", "")  # the challenge's script drops byte order marks from tables only
    numbers = [number for number, line in enumerate(lines, start=1) if line]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path} is empty; a table of MRs and texts is expected")
    for wrong, right in _REPAIRS:
        lines = [line.replace(wrong, right) for line in lines]
    delimiter = "\t" if "\t" in lines[0] else ","
    try:
        # A cell of several lines is joined without spaces, as in the challenge's script.
        reader = csv.reader([_double_quoted(line, delimiter) for line in lines], delimiter=delimiter)
        rows, ends = [], []
        for row in reader:
            rows.append(row)
            ends.append(numbers[reader.line_num - 1])
    except csv.Error as error:
        raise UserError(f"{path}: malformed table: {error}") from error
    header = [re.sub("[_ .-]+", " ", name.strip().lower()) for name in rows[0]]
    # A column with exactly the name of an MR column is preferred. There must not be two columns of texts.
    mrs = [i for i, name in enumerate(header) if name in _MRS] or _columns(header, _MRS)
    texts = _columns(header, names)
    if len(header) == 2 and "[" in rows[0][0] and not mrs:  # name[Aromi] is an MR, not a header
        width, columns = 2, (0, 1)
    elif len(mrs) == len(texts) == 1:
        width, rows, ends = len(header), rows[1:], ends[1:]
        columns = mrs[0], texts[0]
    elif not mrs and not texts:
        width, columns = 2, (0, 1)
    else:
        found = ", ".join(map(repr, rows[0]))
        raise UserError(
            f"{path}, line {numbers[0]}: the columns are {found}; one of MRs (mr) and one of texts (output, or ref)"
        )
    for row, line in zip(rows, ends, strict=True):
        if len(row) != width:
            empty = " (or is its text empty?)" if len(row) == width - 1 else ""
            raise UserError(f"{path}, line {line}: {len(row)} fields; {width} are expected{empty}")
    if not rows:
        raise UserError(f"{path} has a header and no rows")
    return [(_unwrapped(row[columns[0]]), _unwrapped(row[columns[1]])) for row in rows]


def _columns(header: list[str], names: tuple[str, ...]) -> list[int]:
    """The columns whose names begin with one of these."""
    return [i for i, name in enumerate(header) if name.startswith(names)]


def _double_quoted(line: str, delimiter: str) -> str:
    """A row whose fields are all in single quotes, rewritten with double quotes; any other row unchanged."""
    between = f"'{delimiter}'"
    if not (line.startswith("'") and line.endswith("'") and between in line):
        return line
    return delimiter.join('"' + field.replace('"', '""') + '"' for field in line[1:-1].split(between))


def _unwrapped(field: str) -> str:
    """A field without surrounding single quotes, unless the last closes a quotation (`'Aromi' is near 'Zizzi'`)."""
    field = field.strip()
    inside = field[1:-1]
    opened = inside.rfind(" '")
    if len(field) < 2 or not field[0] == field[-1] == "'" or (opened >= 0 and "'" not in inside[opened + 2 :]):
        return field
    return inside.strip()
