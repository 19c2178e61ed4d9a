"""The header of a GGUF file: its metadata, and the name, type, shape and place of each tensor.

The package gguf has a reader, too, which a small file can keep busy until memory is full: it looks for as many values
as the file promises. This one checks each length against the size of the file, and keeps no object for each number.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.models.gguf.blocks import block_of

_VERSIONS = (2, 3)
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32  # unless general.alignment says otherwise
_AXES = 4  # ggml has no more
_MOST = 1 << 17  # more tensors than any model has


class Stored(NamedTuple):
    """A tensor in the file.

    Attributes:
        kind: ggml's number of its type; see `blocks`.
        shape: as NumPy has it, the last axis contiguous.
        start: the offset of its first byte.
        size: its bytes.
    """

    kind: int
    shape: tuple[int, ...]
    start: int
    size: int


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        path: of the file.
        data: the file's bytes, mapped into memory.
        fields: the metadata; an array of numbers is a NumPy array, and one of texts a list.
        tensors: by llama.cpp's names.
    """

    path: Path
    data: Any
    fields: Mapping[str, Any]
    tensors: Mapping[str, Stored]


def read_header(path: Path) -> Header:
    """The header of a file.

    Raises:
        UserError: it is no whole GGUF file, or the package gguf is needed for it and missing.
        OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Header(path, data, *_read(data))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:  # an empty file cannot be mapped
        size = path.stat().st_size
        raise UserError(f"{path}: {size} bytes, not a whole GGUF file ({error}); fetch it again") from None


def _read(data: Any) -> tuple[dict[str, Any], dict[str, Stored]]:
    reader = _Reader(data)
    if bytes(data[:4]) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    reader.take(4)
    version = reader.number("<u4")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in _VERSIONS:
            raise UserError("a big-endian GGUF file; take the little-endian one")
        raise UserError(f"version {version} of GGUF; versions 2 and 3 are read: convert the model again")
    count, pairs = reader.number("<u8"), reader.number("<u8")
    if count > _MOST:
        raise ValueError(f"{count} tensors")
    fields: dict[str, Any] = {}
    for _ in range(pairs):
        key = reader.text()
        if key in fields:
            raise ValueError(f"{key!r} is there twice")
        fields[key] = reader.value(reader.number("<u4"))
    table = [reader.tensor() for _ in range(count)]

    alignment = fields.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    start = -(-reader.at // alignment) * alignment
    tensors: dict[str, Stored] = {}
    for name, kind, shape, offset in table:
        if name in tensors:
            raise ValueError(f"the tensor {name!r} is there twice")
        items, size = block_of(kind, name)
        if shape[-1] % items:
            raise ValueError(f"{name!r} has rows of {shape[-1]}, which blocks of {items} do not fill")
        tensors[name] = Stored(kind, shape, start + offset, math.prod(shape) // items * size)
    ends = [stored.start + stored.size for stored in tensors.values()]
    if max(ends, default=0) > len(data) or sum(stored.size for stored in tensors.values()) > len(data):
        raise ValueError("it ends too early")
    return fields, tensors


class _Reader:
    """Values, read one after the other."""

    def __init__(self, data: Any):
        self.data = data
        self.at = 0

    def take(self, size: int) -> int:
        """Skip so many bytes; returns where they begin."""
        start = self.at
        if size > len(self.data) - start:
            raise ValueError("it ends too early")
        self.at += size
        return start

    def number(self, form: str) -> Any:
        return self.numbers(form, 1)[0].item()

    def numbers(self, form: str, count: int) -> np.ndarray:
        dtype = np.dtype(form)
        return np.frombuffer(self.data, dtype, count, self.take(count * dtype.itemsize)).copy()

    def text(self) -> str:
        (size,) = struct.unpack_from("<Q", self.data, self.take(8))
        start = self.take(size)
        return bytes(self.data[start : self.at]).decode()

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind} before byte {self.at}")
        of, count = self.number("<u4"), self.number("<u8")
        if of in _SCALARS:
            return self.numbers(_SCALARS[of], count)
        if of != _TEXT:
            raise ValueError(f"an array of type {of} before byte {self.at}")
        return [self.text() for _ in range(count)]

    def tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        """The name, type, shape and offset of a tensor."""
        name = self.text()
        axes = self.number("<u4")
        if not 1 <= axes <= _AXES:
            raise ValueError(f"{name!r} has {axes} axes")
        shape = tuple(self.numbers("<u8", axes)[::-1].tolist())
        if 0 in shape:
            raise ValueError(f"{name!r} is empty")
        return name, self.number("<u4"), shape, self.number("<u8")
