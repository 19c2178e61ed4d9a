"""How the axes of a dense layer's kernel are read: stacked layers, inputs, outputs."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hut_jax.core.errors import UserError

_LETTERS = "it has one letter for each axis, l for stacked layers, then i for inputs, then o for outputs"


def check_letters(text: Any) -> None:
    """Check that this is the layout of some kernel.

    Raises:
        UserError: it is not, such as "oi".
    """
    if not isinstance(text, str) or not re.fullmatch("l*i+o+", text):
        raise UserError(f"{text!r} is no layout: {_LETTERS}")


@dataclass(frozen=True)
class Layout:
    """The sizes of a kernel's axes. Transformations see a kernel as a matrix `[d, k]`, one for each stacked layer.

    Attributes:
        stack: the leading axes, of stacked layers.
        inputs: the axes after them.
        outputs: the last axes.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def d(self) -> int:
        """The number of inputs."""
        return math.prod(self.inputs)

    @property
    def k(self) -> int:
        """The number of outputs."""
        return math.prod(self.outputs)

    @classmethod
    def parse(cls, text: str, shape: Sequence[int]) -> "Layout":
        """Parse a layout such as "lio", with one letter for each axis: l(ayer), i(nput), o(utput).

        Raises:
            UserError: the string is not a layout of a kernel of this shape.
        """
        check_letters(text)
        if len(text) != len(shape):
            raise UserError(f"layout {text!r} does not fit a kernel of shape {list(shape)}: {_LETTERS}")
        return cls._of(shape, text.count("l"), text.count("i"))

    @classmethod
    def infer(cls, shape: Sequence[int], bias_shape: Sequence[int] | None) -> "Layout":
        """The only layout that the shapes allow.

        A matrix is inputs by outputs. A kernel with more axes is read with its bias, which has the axes of stacked
        layers and then those of the outputs.

        Raises:
            UserError: there is no bias, or it fits several layouts or none.
        """
        if len(shape) == 2:
            return cls._of(shape, 0, 1)
        readings = []
        if bias_shape is not None:
            for stacked in range(len(shape) - 1):
                outputs = tuple(bias_shape[stacked:])
                inputs = len(shape) - stacked - len(outputs)
                if (
                    outputs
                    and inputs > 0
                    and tuple(shape[-len(outputs) :]) == outputs
                    and tuple(shape[:stacked]) == tuple(bias_shape[:stacked])
                ):
                    readings.append(cls._of(shape, stacked, inputs))
        if len(readings) != 1:
            raise UserError(
                f"cannot tell which axes of a kernel of shape {list(shape)} are inputs and which are outputs; "
                'say so with layout={pattern: "lio"}, one letter for each axis (l stacked layers, i input, o output)'
            )
        return readings[0]

    @classmethod
    def _of(cls, shape: Sequence[int], stacked: int, inputs: int) -> "Layout":
        sizes = tuple(shape)
        return cls(sizes[:stacked], sizes[stacked : stacked + inputs], sizes[stacked + inputs :])
