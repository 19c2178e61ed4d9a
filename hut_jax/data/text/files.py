"""UTF-8 text files, plain or .xz, read in pieces that a tokenizer can encode separately."""

import codecs
import lzma
import os
import re
from collections.abc import Iterator
from typing import IO

from hut_jax.core.errors import UserError

SEPARATOR = "<|endoftext|>"
_LONGEST_LINE = 1 << 16  # bytes; a longer line is read in parts

# GPT-2's BPE never joins a character with the white space after it. A text may be cut there, and nowhere else.
_SAFE_CUT = re.compile(r".*\S(?=[ \t\r\n])", re.DOTALL)


def read_pieces(path: str | os.PathLike[str], *, max_bytes: int = 0, size: int = 1 << 15) -> Iterator[str | None]:
    """The text in pieces of about `size` characters, with `None` after the last piece of each document.

    Documents are separated by lines that hold only `<|endoftext|>`. Such a line, and the newline before it, belong to
    no document. Encoding the pieces one by one gives the same tokens as encoding the whole document.

    Args:
        path: a UTF-8 text, which is decompressed if its name ends in `.xz`.
        max_bytes: read whole lines up to this many bytes of text; 0 reads all.
        size: the approximate number of characters in a piece. Pieces without white space may be longer.

    Raises:
        UserError: the file is missing, is not UTF-8, or is a corrupt .xz. The message names the line.
    """
    held, document = "", False  # the text not yet yielded; whether a piece of the current document was yielded
    line_start = True
    for line in _read_lines(path, max_bytes):
        if line_start and line.rstrip("\r\n") == SEPARATOR:
            held = held.removesuffix("\n").removesuffix("\r")
            if held:
                yield held
            if held or document:
                yield None
            held, document = "", False
            continue
        line_start = line.endswith("\n")
        held += line
        if len(held) >= size and (cut := _SAFE_CUT.match(held)):
            yield cut[0]
            held, document = held[cut.end() :], True
    if held:
        yield held
    if held or document:
        yield None


def _open(path: str) -> IO[bytes]:
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; a text file is expected")
    try:
        return lzma.open(path, "rb") if path.endswith(".xz") else open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_lines(path: str | os.PathLike[str], max_bytes: int) -> Iterator[str]:
    path = os.fspath(path)
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    number, total = 1, 0
    with _open(path) as file:
        try:
            while chunk := file.readline(_LONGEST_LINE):
                total += len(chunk)
                if max_bytes and total > max_bytes:
                    return
                yield decoder.decode(chunk)
                number += chunk.endswith(b"\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
        except (lzma.LZMAError, EOFError) as error:
            raise UserError(f"{path}: the .xz is corrupt or cut short, about line {number}: {error}") from error
