"""How the axes of a kernel are read: stacked layers, inputs, outputs."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path

_LETTERS = (
    "it has one letter for each axis, l for stacked layers, i for inputs, o for outputs, in the order of the axes"
)
_SAY = 'say so with layout={pattern: "lio"}, one letter for each axis (l stacked layers, i input, o output)'


class UnknownLayout(UserError):
    """It cannot be told which axes of a kernel are inputs and which are outputs."""


def check_letters(text: Any) -> None:
    """Check that this is the layout of some kernel.

    Raises:
        UserError: it is not, such as "oo".
    """
    if not isinstance(text, str) or not re.fullmatch("[lio]+", text) or not {"i", "o"} <= set(text):
        raise UserError(f"{text!r} is no layout: {_LETTERS}")


@dataclass(frozen=True)
class Layout:
    """What each axis of a kernel is. Transformations see a kernel as a matrix `[d, k]`, one for each stacked layer.

    Attributes:
        letters: one for each axis: l (a stack of layers, of experts), i (inputs), o (outputs).
        shape: the kernel's.
    """

    letters: str
    shape: tuple[int, ...]

    @property
    def stack(self) -> tuple[int, ...]:
        """The axes of stacked layers."""
        return self._sizes("l")

    @property
    def inputs(self) -> tuple[int, ...]:
        """The axes of inputs."""
        return self._sizes("i")

    @property
    def outputs(self) -> tuple[int, ...]:
        """The axes of outputs."""
        return self._sizes("o")

    @property
    def d(self) -> int:
        """The number of inputs."""
        return math.prod(self.inputs)

    @property
    def k(self) -> int:
        """The number of outputs."""
        return math.prod(self.outputs)

    @property
    def layer(self) -> "Layout":
        """The layout of one of the stacked layers."""
        kept = [(letter, size) for letter, size in zip(self.letters, self.shape, strict=True) if letter != "l"]
        return Layout("".join(letter for letter, _ in kept), tuple(size for _, size in kept))

    def axes(self, letter: str) -> tuple[int, ...]:
        """The positions of the axes with this letter."""
        return tuple(axis for axis, own in enumerate(self.letters) if own == letter)

    def matrix(self, kernel: Array) -> Array:
        """The kernel as `[*stack, d, k]`."""
        order = self._order
        turned = kernel if order == tuple(range(len(order))) else kernel.transpose(order)
        return turned.reshape(*self.stack, self.d, self.k)

    def kernel(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        order = self._order
        turned = matrix.reshape([self.shape[axis] for axis in order])
        return turned if order == tuple(range(len(order))) else turned.transpose(_inverse(order))

    def vector(self, bias: Array) -> Array:
        """The bias as `[*stack, k]`."""
        order = self._bias_order(bias.shape)
        return (bias if order is None else bias.transpose(order)).reshape(*self.stack, self.k)

    def bias(self, vector: Array, shape: Sequence[int]) -> Array:
        """The inverse of `vector`, for a bias of this shape."""
        order = self._bias_order(shape)
        if order is None:
            return vector.reshape(shape)
        return vector.reshape([shape[axis] for axis in order]).transpose(_inverse(order))

    def fits(self, bias_shape: Sequence[int]) -> bool:
        """Whether a bias of this shape has one entry for each output of each layer."""
        return math.prod(bias_shape) == math.prod(self.stack) * self.k

    @property
    def _order(self) -> tuple[int, ...]:
        return self.axes("l") + self.axes("i") + self.axes("o")

    def _bias_order(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """How to put the stack's axes first, in a bias whose axes lie in the kernel's order; None if they are first."""
        if tuple(shape) == self.stack + self.outputs:
            return None
        kept = [axis for axis in range(len(self.letters)) if self.letters[axis] != "i"]
        if tuple(shape) != tuple(self.shape[axis] for axis in kept):
            return None
        return tuple(kept.index(axis) for axis in self.axes("l") + self.axes("o"))

    def _sizes(self, letter: str) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes(letter))

    @classmethod
    def parse(cls, text: str, shape: Sequence[int]) -> "Layout":
        """Parse a layout such as "lio", with one letter for each axis: l(ayer), i(nput), o(utput).

        Raises:
            UserError: the string is not a layout of a kernel of this shape.
        """
        check_letters(text)
        if len(text) != len(shape):
            raise UserError(f"layout {text!r} does not fit a kernel of shape {list(shape)}: {_LETTERS}")
        return cls(text, tuple(shape))


def read_layout(leaf: Path, shapes: Mapping[Path, tuple[int, ...]], bias: Path | None) -> Layout:
    """The layout of a kernel, from its shape, its bias and its name.

    A bias has the axes of stacked layers and then those of the outputs. A matrix without a bias, or a square one, is
    inputs by outputs, unless all matrices near it whose bias tells are stored the other way. Where no bias tells of
    stacked layers, their norms do.

    Args:
        leaf: the kernel's path.
        shapes: the shapes of all parameters.
        bias: the bias's path, if there is one.

    Raises:
        UserError: the axes cannot be told.
    """
    shape, own = shapes[leaf], None if bias is None else shapes[bias]
    told = None
    if len(shape) == 2:
        told = _of_matrix(shape, own) or _as_relatives(leaf, shapes)
    elif len(shape) > 2:
        told = (_by_bias(shape, own) if own is not None else None) or _by_name(leaf, shapes) or _by_norms(leaf, shapes)
    if told is None:
        raise UserError(
            f"cannot tell which axes of a kernel of shape {list(shape)} are inputs and which are outputs; {_SAY}"
        )
    return Layout(told, tuple(shape))


def _of_matrix(shape: Sequence[int], bias: Sequence[int] | None) -> str | None:
    """The layout of a matrix by its bias; None if both fit."""
    if bias is None or shape[0] == shape[1]:
        return None
    size = math.prod(bias)
    return "oi" if size == shape[0] else "io"


def _as_relatives(leaf: Path, shapes: Mapping[Path, tuple[int, ...]]) -> str:
    """The layout of the nearest matrices whose bias tells, if it is the same for all; else inputs by outputs."""
    for depth in range(len(leaf) - 2, -1, -1):
        found = set()
        for path, shape in shapes.items():
            if path[:depth] == leaf[:depth] and path[-1] == leaf[-1] == "kernel" and len(shape) == 2:
                bias = (*path[:-1], "bias")
                found.add(_of_matrix(shape, shapes.get(bias)) if bias in shapes else None)
        found.discard(None)
        if found:
            return "oi" if found == {"oi"} else "io"
    return "io"


def _by_bias(shape: Sequence[int], bias: Sequence[int]) -> str | None:
    """The only layout with inputs before outputs that the bias allows, or else the only one of the others."""
    sizes, n = tuple(shape), len(shape)
    plain, turned = set(), set()
    for stacked in range(n - 1):
        outputs = tuple(bias[stacked:])
        inputs = n - stacked - len(outputs)
        if not outputs or inputs < 1 or sizes[:stacked] != tuple(bias[:stacked]):
            continue
        if sizes[n - len(outputs) :] == outputs:
            plain.add("l" * stacked + "i" * inputs + "o" * len(outputs))
        if sizes[stacked : stacked + len(outputs)] == outputs:
            turned.add("l" * stacked + "o" * len(outputs) + "i" * inputs)
    if len(bias) == 1 and sizes[-2] == bias[0]:
        turned.add("i" * (n - 2) + "oi")  # a ConvTranspose with transpose_kernel=True
    for readings in (plain, turned):
        if readings:
            return readings.pop() if len(readings) == 1 else None
    return None


_NAMED = {"q_einsum": "oio", "qkv_einsum": "loio", "kv_einsum": "loio", "attn_vec_einsum": "iio"}
"""The kernels of the package gemma, by the names of their modules."""


def _by_name(leaf: Path, shapes: Mapping[Path, tuple[int, ...]]) -> str | None:
    """The layout of a kernel of Flax's own modules and of known models, by the names around it."""
    shape, module = shapes[leaf], leaf[:-1]
    n, name = len(shape), module[-1] if module else ""
    if name in ("query", "key", "value", "out"):
        stack = _attention_stack(module[:-1], leaf[-1], shapes)
        if stack is not None and n == stack + 3:
            return "l" * stack + ("iio" if name == "out" else "ioo")
    if name in _NAMED and len(_NAMED[name]) <= n:
        return "l" * (n - len(_NAMED[name])) + _NAMED[name]
    if "gating_einsum" in (name, leaf[-1]) and n >= 3:
        linear = shapes.get((*module, "linear"), shapes.get((*module[:-1], "linear", leaf[-1]), ()))
        return "l" * (n - 2) + ("oi" if linear[-2:] == shape[-2:] and shape[-1] != shape[-2] else "io")
    if re.search(r"conv(?!.*einsum)", name, re.IGNORECASE):
        return "i" * (n - 1) + "o"
    if any(re.search("expert|moe", part, re.IGNORECASE) for part in leaf):
        return "l" * (n - 2) + "io"
    return None


def _by_norms(leaf: Path, shapes: Mapping[Path, tuple[int, ...]]) -> str | None:
    """The layout of a stack of matrices, if the norms beside it are stacked, too: else a scale has one axis."""
    count, *_ = shapes[leaf]
    scales = [shape for path, shape in shapes.items() if path[:1] == leaf[:1] and path[-1] == "scale"]
    stacked = bool(scales) and all(len(shape) == 2 and shape[0] == count for shape in scales)
    return "lio" if stacked and len(shapes[leaf]) == 3 and leaf[-1] == "kernel" else None


def _attention_stack(parent: Path, kernel: str, shapes: Mapping[Path, tuple[int, ...]]) -> int | None:
    """The number of stacked axes of Flax's attention: query is `[d, heads, size]`, out is `[heads, size, d]`."""
    query, out = (shapes.get((*parent, name, kernel), ()) for name in ("query", "out"))
    stack = len(query) - 3
    if stack >= 0 and len(out) == len(query) and query[stack + 1 :] == out[stack:-1] and query[:stack] == out[:stack]:
        return stack
    return None


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))
