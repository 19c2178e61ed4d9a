"""Write files whole or not at all, even if the process is killed. Read users' files with one-line errors."""

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hut_jax.core.errors import UserError

PARTIAL = ".partial"
"""The ending of the name of a file that is still being written. The name begins with a dot."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to. If all goes well, the new file replaces `path`, or what `path` links to."""
    path = path.resolve()
    partial = path.with_name(f".{path.name[:32]}.{os.getpid()}{PARTIAL}")  # short enough for a file name
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_all(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Temporary paths to write to. If all goes well, the new files replace the files of these names, one by one.

    Args:
        folder: the files' folder; made if it is missing.
        names: the files' names, in the order in which they are replaced.

    Raises:
        UserError: the folder cannot be made.
    """
    missing = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    try:
        with ExitStack() as stack:  # it leaves the file that was entered last first
            paths = [stack.enter_context(replacing(folder / name)) for name in reversed(names)]
            yield paths[::-1]
    except BaseException:
        if missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def lines_of(text: str) -> list[str]:
    r"""The lines of a text. Only \n, \r\n and \r end a line; `str.splitlines` knows more line ends."""
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """The text of a UTF-8 file, with its line ends as they are.

    Args:
        path: the file.
        encoding: "utf-8", or "utf-8-sig" to drop a byte order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8; the message names the line.
    """
    try:
        return Path(path).read_bytes().decode(encoding)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: there is no such file, or no JSON object in it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}") from None
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object, but a {type(value).__name__}")
    return value


def write_text(path: Path, text: str) -> None:
    """Write the text, with its line ends as they are."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write the value as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file.

    Args:
        path: the file.
        tensors: the tensors, by name.
        metadata: for the file's header.

    Raises:
        SafetensorError: it could not be written.
    """
    # np.ascontiguousarray would give a scalar an axis.
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, metadata)
    path.chmod(0o644)  # safetensors makes its files readable for the owner alone


def stream_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    read: Callable[[str], np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the file that `write_tensors` writes, with one tensor in memory at a time.

    Args:
        path: the file.
        shapes: of the tensors, by name.
        dtype: of all tensors: float32, float16 or bfloat16.
        read: the tensor of a name, with its shape and of that dtype.
        metadata: for the file's header.
    """
    code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype.name]
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + math.prod(shapes[name]) * dtype.itemsize
        header[name] = {"dtype": code, "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(shapes):
            file.write(np.ascontiguousarray(read(name), dtype).view(np.uint8).data)
