"""What one of PEFT's methods must know to become a transformation here, and the other way."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layers
from hut_jax.transforms import Transform

Arrays = dict[str, np.ndarray]


class Part(NamedTuple):
    """What was read for one of our layers or parameters.

    Attributes:
        path: the layer's, or the parameter's.
        factors: ours.
        scale: what theirs multiplies the product of the low-rank factors by.
        side: for IA3, which activations are scaled.
    """

    path: str
    factors: Arrays
    scale: float = 1.0
    side: str = ""


class Own(NamedTuple):
    """What is to be written for one of our layers or parameters."""

    transform: Transform
    factors: Arrays


class Written(NamedTuple):
    """What is written for one of their modules.

    Attributes:
        tensors: how a tensor's name ends -> the tensor.
        rank: of the low-rank factors.
        alpha: the numerator of their scaling.
        side: for IA3, which activations are scaled.
        linear: whether the module is torch's Linear.
    """

    tensors: Arrays
    rank: int = 0
    alpha: float = 0.0
    side: str = ""
    linear: bool = True


class Method:
    """One of PEFT's methods.

    Its errors speak of the module or the field; the caller says in which file.
    """

    peft_type: ClassVar[str]
    """PEFT's name of it."""

    known: ClassVar[frozenset[str]] = frozenset()
    """The fields of its own that are read here, or whose value changes no output."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """Those of a module's tensors that may be missing."""

    def check(self, fields: Fields) -> None:
        """Make sure that no field asks for what is not understood.

        Raises:
            UserError: one does.
        """
        fields.only(self.known)

    def endings(self, fields: Fields) -> dict[str, str]:
        """Of a module's tensors: what we call them -> how their names end, behind the module's."""
        raise NotImplementedError

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """Our factors from one module's tensors.

        Args:
            module: its name in the file.
            given: its tensors, by the names of `endings`.
            layers: the model's.
            fields: the adapter's.

        Raises:
            UserError: the model has no such module, or the tensors are not of its shape.
        """
        raise NotImplementedError

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """The parts with what one transformation must have alike made alike."""
        return list(parts)

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """The transformation whose factors these are, and ranks that differ from its own, by pattern."""
        raise NotImplementedError

    def target(self, path: str, layers: Layers) -> str:
        """The module of theirs to which our layer or parameter at this path belongs."""
        return layers.dense_at(path).name

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """One module's tensors from our factors.

        Args:
            module: its name.
            own: ours, by path; some of a fused module's layers may be missing.
            layers: the model's.

        Raises:
            UserError: PEFT's module cannot compute what ours do.
        """
        raise NotImplementedError

    def even(self, written: Mapping[str, Written]) -> dict[str, Written]:
        """The modules with what PEFT must have alike in all of them made alike."""
        return dict(written)

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """The method's own fields, where these modules are written."""
        raise NotImplementedError


def exactly(paths: Sequence[str]) -> list[str]:
    """Patterns that match these paths and no other."""
    return [f"^{re.escape(path)}$" for path in paths]
