"""The lines of a file by number, whatever the file's size: an index on disk says where each begins."""

import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import IO

import numpy as np
from jaxtyping import Int64

from hut_jax.core.errors import UserError

_BLOCK = 1 << 16  # bytes
_ENTRY = np.dtype((np.int64, 3))  # of a line: its number, its first byte and its end


class Lines:
    """The lines of a UTF-8 file that are not blank, by random access. Memory does not grow with the file.

    The file is read once, to find its lines. The index is a file without a name, which goes with the process.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        try:
            with open(self.path, "rb") as file, tempfile.TemporaryFile() as index:
                for part in _parts(file):
                    part.tofile(index)
                self._count = index.tell() // _ENTRY.itemsize
                self._file, self._index = os.dup(file.fileno()), os.dup(index.fileno())
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        for handle in (self._file, self._index):
            weakref.finalize(self, os.close, handle)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[int, str]:
        """A line's number in the file, from 1, and its text.

        Raises:
            UserError: the line is not UTF-8.
        """
        entry = os.pread(self._index, _ENTRY.itemsize, range(self._count)[index] * _ENTRY.itemsize)
        number, start, end = np.frombuffer(entry, np.int64).tolist()
        line = os.pread(self._file, end - start, start)  # no seek: several threads read
        try:
            return number, line.decode("utf-8-sig" if start == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path}, line {number}: not UTF-8 ({error.reason}); it should be plain text"
            ) from error


def _parts(file: IO[bytes]) -> Iterator[Int64[np.ndarray, "lines 3"]]:
    """The entries of the index, some at a time: the lines that are not blank."""
    number, begun, at, filled = 1, 0, 0, False  # of the line that a block ends in: its number, start, whether not blank
    while data := file.read(_BLOCK):
        block = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(block == ord("\n"))
        letters = np.r_[0, np.cumsum(block > ord(" "))]
        starts = np.r_[begun, at + ends[:-1] + 1] if len(ends) else np.zeros(0, np.int64)
        before = np.r_[0, letters[ends[:-1]]] if len(ends) else np.zeros(0, np.int64)
        some = letters[ends] > before
        if len(ends):
            some[0] |= filled
            rows = np.stack([number + np.arange(len(ends)), starts, at + ends], 1).astype(np.int64)
            yield rows[some]
            number, begun, filled = number + len(ends), at + int(ends[-1]) + 1, False
        tail = int(ends[-1]) + 1 if len(ends) else 0
        filled |= bool(letters[-1] > letters[tail])
        at += len(block)
    if filled:
        yield np.array([[number, begun, at]], np.int64)
