"""The arrays of a file written by `flax.serialization`: their names, shapes and places, from the headers alone.

The file is one tree of maps. An array is an extension type that packs shape, dtype and bytes; one of more than 1 GiB is
a map of chunks. Nothing else is accepted, so that a file can neither run code nor ask for more memory than its size.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hut_jax.core.trees import Path, flatten

DTYPES = {
    **{np.dtype(dtype).name: np.dtype(dtype) for dtype in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")},
    "bfloat16": np.dtype(jnp.bfloat16),
}
"""The dtypes that are read, by their names in the file."""

_DEEPEST = 32
_MOST = 1 << 17  # more tensors than any model has, and few enough to list
_LONGEST = 1024  # bytes of a name
_CHUNKED = "__msgpack_chunked_array__"
_NDARRAY = 1  # Flax's code of the extension type

# The first byte of a value -> its kind, and the format of the number that follows: its length, or the value itself.
_KINDS: dict[int, tuple[str, str]] = {
    first + i: (kind, form)
    for first, kind, forms in (
        (0xC4, "bin", (">B", ">H", ">I")),
        (0xC7, "ext", (">B", ">H", ">I")),
        (0xCC, "int", (">B", ">H", ">I", ">Q")),
        (0xD9, "str", (">B", ">H", ">I")),
        (0xDC, "array", (">H", ">I")),
        (0xDE, "map", (">H", ">I")),
    )
    for i, form in enumerate(forms)
}
_FIXED = {0xC2: ("bool", 0), 0xC3: ("bool", 1), **{0xD4 + i: ("ext", 1 << i) for i in range(5)}}


class Stored(NamedTuple):
    """An array in a file.

    Attributes:
        dtype: its name, as NumPy has it.
        shape: of the array.
        spans: the offset and the length, in bytes, of each of its pieces.
    """

    dtype: str
    shape: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def read(self, data: Any) -> np.ndarray:
        """A copy of the array in the memory of `data`. Its dtype must be one of `DTYPES`."""
        pieces = [np.frombuffer(data, np.uint8, size, start) for start, size in self.spans]
        whole = pieces[0].copy() if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, np.uint8)])
        return whole.view(DTYPES[self.dtype]).reshape(self.shape)


def find_arrays(data: Any) -> dict[Path, Stored]:
    """The arrays of a file by their paths in the tree.

    Args:
        data: the file's bytes, such as an `mmap`. Only headers are read.

    Raises:
        ValueError: it is not a whole file as Flax writes it.
    """
    reader = _Reader(data)
    tree = reader.value(0)
    if not isinstance(tree, dict):
        raise ValueError("it holds no tree")
    if reader.at != len(data):
        raise ValueError(f"it goes on after its end at byte {reader.at}")
    return {path: _whole(leaf) for path, leaf in flatten(tree).items()}


class _Chunks(NamedTuple):
    """The map of an array in chunks, as a leaf."""

    given: Mapping[str, Any]


class _Reader:
    """Values of msgpack, read one after the other."""

    def __init__(self, data: Any):
        self.data = data
        self.at = 0
        self.count = 0

    def take(self, size: int) -> int:
        """Skip so many bytes; returns where they begin."""
        start = self.at
        if size > len(self.data) - start:
            raise ValueError("it ends too early")
        self.at += size
        return start

    def number(self, form: str) -> int:
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]

    def header(self) -> tuple[str, int]:
        """The kind of the next value, and its length or, for a number, the value."""
        code = self.number("B")
        if code < 0xC0:  # these four kinds hold the number in the byte itself
            for end, kind, mask in ((0x80, "int", 0x7F), (0x90, "map", 0x0F), (0xA0, "array", 0x0F)):
                if code < end:
                    return kind, code & mask
            return "str", code & 0x1F
        if code in _FIXED:
            return _FIXED[code]
        if code not in _KINDS:
            raise ValueError(f"byte {self.at - 1} begins neither a map nor an array")
        kind, form = _KINDS[code]
        return kind, self.number(form)

    def expect(self, kind: str) -> int:
        found, size = self.header()
        if found != kind:
            raise ValueError(f"a value of kind {found} before byte {self.at}, not {kind}")
        return size

    def text(self) -> str:
        size = self.expect("str")
        if size > _LONGEST:
            raise ValueError(f"a name of {size} bytes")
        start = self.take(size)
        return bytes(self.data[start : self.at]).decode()

    def value(self, depth: int) -> Any:
        """The next value: a number, a `Stored`, or a dict of values."""
        kind, size = self.header()
        self.count += 1
        if depth > _DEEPEST or self.count > _MOST:
            raise ValueError("its tree is deeper or larger than any model's")
        if kind in ("int", "bool"):
            return size
        if kind == "ext":
            return self.array(size)
        if kind != "map":
            raise ValueError(f"a value of kind {kind} before byte {self.at}, not an array")
        tree: dict[str, Any] = {}
        for _ in range(size):
            name = self.text()
            if name in tree:
                raise ValueError(f"{name!r} is there twice")
            tree[name] = self.value(depth + 1)
        return _Chunks(tree) if _CHUNKED in tree else tree

    def array(self, size: int) -> Stored:
        """An array, after the length of its extension type."""
        code = self.number("B")
        end = self.at + size
        if code != _NDARRAY or self.expect("array") != 3:
            raise ValueError(f"an extension type before byte {self.at} that is not an array")
        axes = self.expect("array")
        if axes > _DEEPEST:
            raise ValueError(f"an array of {axes} axes")
        shape = tuple(self.expect("int") for _ in range(axes))
        dtype = self.text()
        length = self.expect("bin")
        stored = Stored(dtype, shape, ((self.take(length), length),))
        if self.at != end:
            raise ValueError(f"an array that does not end at byte {end}")
        return _checked(stored)


def _whole(leaf: Any) -> Stored:
    """An array, whether in one piece or in chunks."""
    if isinstance(leaf, Stored):
        return leaf
    if not isinstance(leaf, _Chunks):
        raise ValueError("a leaf of its tree is not an array")
    shape, chunks = leaf.given.get("shape"), leaf.given.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        raise ValueError("an array in chunks without its shape")
    axes: list[Any] = [shape.get(str(i)) for i in range(len(shape))]
    pieces: list[Any] = [chunks.get(str(i)) for i in range(len(chunks))]
    if not all(isinstance(axis, int) for axis in axes) or not all(isinstance(piece, Stored) for piece in pieces):
        raise ValueError("an array in chunks that are not numbered")
    dtypes = {piece.dtype for piece in pieces}
    if len(dtypes) != 1:
        raise ValueError(f"an array in chunks of {len(dtypes)} dtypes")
    return _checked(Stored(dtypes.pop(), tuple(axes), tuple(span for piece in pieces for span in piece.spans)))


def _checked(stored: Stored) -> Stored:
    """The array, if it has as many bytes as its shape and dtype say."""
    length = sum(size for _, size in stored.spans)
    dtype = DTYPES.get(stored.dtype)  # an array of another dtype is not read
    if dtype is not None and math.prod(stored.shape) * dtype.itemsize != length:
        raise ValueError(f"an array of {length} bytes, not {stored.dtype} {list(stored.shape)}")
    return stored
