"""The interface of a PEFT method: from its tensors to our factors, and back."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layers
from hut_jax.transforms import Transform

Arrays = dict[str, np.ndarray]

ROWS = "trainable_tokens_delta"
"""The end of the name of single tokens' rows in PEFT's files."""


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
        linear: whether the module is torch's Linear; None for an embedding.
        indices: of the rows that are written.
    """

    tensors: Arrays
    rank: int = 0
    alpha: float = 0.0
    side: str = ""
    linear: bool | None = True
    indices: tuple[int, ...] = ()


def fan_in_fan_out(written: Mapping[str, Written]) -> bool:
    """PEFT's field of this name, which is for GPT-2's Conv1D. Where the kinds are mixed, PEFT finds out by itself."""
    return {one.linear for one in written.values()} - {None} == {False}


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

    trained_only: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of tensors that only training uses."""

    factors: ClassVar[bool] = True
    """Whether the method has tensors of its own, beside whole ones and rows of them."""

    whole: ClassVar[bool] = False
    """Whether its tensors are those of whole modules, by their names in transformers."""

    saves_whole: ClassVar[bool] = True
    """Whether PEFT knows `modules_to_save` with this method."""

    def check(self, fields: Fields) -> None:
        """Check that all fields are understood.

        Raises:
            UserError: one is not.
        """
        fields.only(self.known)

    def endings(self, fields: Fields) -> dict[str, str]:
        """The tensors of a module: the end of PEFT's name, after the module's -> our name."""
        raise NotImplementedError

    def required(self, given: Arrays, fields: Fields) -> set[str]:
        """The tensors that a module must have if it has these, by our names."""
        return set(self.endings(fields).values()) - self.optional

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

    def shifts(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> Arrays:
        """What one module's tensors add to biases, by our paths.

        Raises:
            UserError: they add to a bias that there is not.
        """
        return {}

    def mirrored(self, table: str, own: Arrays, head: str, others: Arrays, fields: Fields) -> bool:
        """Whether a head's tensors do to its kernel what a tied table's do to the table.

        Args:
            table: the table's name in the file.
            own: its tensors, by our names.
            head: the head's name in the file.
            others: its tensors, by our names.
            fields: of the adapter.
        """
        return False

    def beside(self, tensors: Arrays, layers: Layers) -> Arrays:
        """The tensors that PEFT expects beside those of the modules, by their whole names.

        Args:
            tensors: those of the modules.
            layers: of the model.
        """
        return {}

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """The parts, changed so that one transformation fits all of them."""
        return list(parts)

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """The transformation of these factors, and the ranks that differ from its own, by pattern."""
        raise NotImplementedError

    def unshifted(self, own: Mapping[str, Own], deviations: Arrays, layers: Layers) -> tuple[dict[str, Own], Arrays]:
        """The inverse of `shifts`: our factors and the deviations of whole parameters, as PEFT's modules need them.

        Args:
            own: our factors, by path.
            deviations: by path.
            layers: of the model.

        Raises:
            UserError: PEFT's modules cannot compute what ours do.
        """
        return dict(own), dict(deviations)

    def target(self, path: str, layers: Layers) -> str:
        """The PEFT module that has our layer or parameter at this path."""
        return layers.at(path).name

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

    def even(self, written: Mapping[str, Written], layers: Layers) -> dict[str, Written]:
        """The modules, changed so that one PEFT config fits all of them.

        Raises:
            UserError: none does.
        """
        return dict(written)

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """The method's fields for these modules."""
        raise NotImplementedError


def exactly(paths: Sequence[str]) -> list[str]:
    """Patterns that match these paths only."""
    return [f"^{re.escape(path)}$" for path in paths]
