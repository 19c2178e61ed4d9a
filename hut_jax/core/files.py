"""Files that appear whole or not at all, whenever the process ends."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""How the name of what is not written whole yet ends; it begins with a dot."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside this one to write to, which takes its place when all went well; of a link it takes the target's."""
    path = path.resolve()
    partial = path.with_name(f".{path.name[:32]}.{os.getpid()}{PARTIAL}")  # no longer than a name may be
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, which end with \n, \r\n or \r: to `str.splitlines` other characters end one, too."""
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def write_text(path: Path, text: str) -> None:
    """Write the text, with its line ends as they are."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write the value for people and programs to read."""
    write_text(path, json.dumps(value, indent=2) + "\n")
