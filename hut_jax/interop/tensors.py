"""The names of a model's tensors in Hugging Face's files, which the model's config gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

MODEL_TYPES = (
    *("bert", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3", "roberta", "smollm3"),
)
"""The models of this library whose configs are `NamesTensors`, by the `model_type` of config.json."""


class Tensor(NamedTuple):
    """One tensor of a Hugging Face file and the parameters that it holds.

    Attributes:
        name: its name as transformers writes it.
        paths: of our parameters, '/'-joined. With several, the last axis is split among them, in this order.
        transpose: whether it is `[out, in]`, as in torch's Linear, while ours is `[in, out]`.
        also: another name, which some versions of transformers use instead. The tensor is written under both names,
            and read under either.
        shares: of the last axis, one for each path; if empty, they are equal.
    """

    name: str
    paths: tuple[str, ...]
    transpose: bool = False
    also: str | None = None
    shares: tuple[int, ...] = ()

    def split(self, whole: np.ndarray) -> list[np.ndarray]:
        """Our parameters, in the order of their paths, of the tensor laid out as ours are."""
        if len(self.paths) == 1:  # which may be a scalar
            return [whole]
        shares = np.array(self.shares or (1,) * len(self.paths))
        ends = np.cumsum(shares)[:-1] * whole.shape[-1] // shares.sum()
        return np.split(whole, ends, axis=-1)


@dataclass(frozen=True)
class TensorNames:
    """All tensors of one model.

    Attributes:
        tensors: in the order in which they are written.
        tied: tensors that files may leave out, since each equals another one: name -> the other's name.
        prefix: the beginning of names that files of the model without a head leave out.
        elsewhere: names of another head's tensors, each of which equals one of these: files saved with that head may
            hold only that one. Name -> the name here.
    """

    tensors: Sequence[Tensor]
    tied: Mapping[str, str]
    prefix: str
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def bare(self, name: str) -> str:
        """A tensor's or module's name without the prefix."""
        return name.removeprefix(self.prefix)


@runtime_checkable
class NamesTensors(Protocol):
    """A model's config that knows the names of the model's tensors."""

    def tensor_names(self) -> TensorNames:
        """The names, for the head that the config names."""
