"""The interface of a PEFT method: from its tensors to our factors, and back."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layers
from hut_jax.transforms import Transform

Arrays = dict[str, np.ndarray]


class Part(NamedTuple):
    """The factors that were read for one of our layers or parameters.

    Attributes:
        path: of the layer or parameter.
        factors: by our names.
        scale: the scaling of the product of low-rank factors.
        side: for IA3, whether inputs or outputs are scaled.
    """

    path: str
    factors: Arrays
    scale: float = 1.0
    side: str = ""


class Own(NamedTuple):
    """The factors to write for one of our layers or parameters."""

    transform: Transform
    factors: Arrays


class Written(NamedTuple):
    """The tensors to write for one PEFT module.

    Attributes:
        tensors: the end of a tensor's name -> the tensor.
        rank: of the low-rank factors.
        alpha: the numerator of their scaling.
        side: for IA3, whether inputs or outputs are scaled.
        linear: whether the module is torch's Linear.
    """

    tensors: Arrays
    rank: int = 0
    alpha: float = 0.0
    side: str = ""
    linear: bool = True


class Method:
    """One of PEFT's methods.

    Its errors name the module or the field; the caller adds the file.
    """

    peft_type: ClassVar[str]
    """PEFT's name of the method."""

    known: ClassVar[frozenset[str]] = frozenset()
    """The method's fields that are read here, or whose value changes no output."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """The tensors of a module that may be missing, by our names."""

    def check(self, fields: Fields) -> None:
        """Check that all fields are understood.

        Raises:
            UserError: one is not.
        """
        fields.only(self.known)

    def endings(self, fields: Fields) -> dict[str, str]:
        """The tensors of a module: our name -> the end of PEFT's name, after the module's."""
        raise NotImplementedError

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """Our factors from one module's tensors.

        Args:
            module: its name in the file.
            given: its tensors, by our names.
            layers: of the model.
            fields: of the adapter.

        Raises:
            UserError: the model has no such module, or the tensors are not of its shape.
        """
        raise NotImplementedError

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """The parts, changed so that one transformation fits all of them."""
        return list(parts)

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """The transformation of these factors, and the ranks that differ from its own, by pattern."""
        raise NotImplementedError

    def target(self, path: str, layers: Layers) -> str:
        """The PEFT module that has our layer or parameter at this path."""
        return layers.dense_at(path).name

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """One module's tensors from our factors.

        Args:
            module: its name.
            own: our factors, by path. Some layers of a fused module may have none.
            layers: of the model.

        Raises:
            UserError: PEFT's module cannot compute what our layers do.
        """
        raise NotImplementedError

    def even(self, written: Mapping[str, Written]) -> dict[str, Written]:
        """The modules, changed so that one PEFT config fits all of them."""
        return dict(written)

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """The method's fields for these modules."""
        raise NotImplementedError


def exactly(paths: Sequence[str]) -> list[str]:
    """Patterns that match these paths only."""
    return [f"^{re.escape(path)}$" for path in paths]
