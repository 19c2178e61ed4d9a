"""BitFit (Ben Zaken, Ravfogel and Goldberg, arXiv 2106.10199, 2021): the biases train, `bias = bias0 + d`."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from hut_jax.transforms.full import Full


@dataclass(frozen=True)
class BitFit(Full):
    """Every bias among the targets, of dense layers and of norms."""

    name: ClassVar[str] = "bitfit"
    learning_rate: ClassVar[float] = 1e-3

    def takes(self, leaf: str, siblings: Collection[str]) -> bool:
        """Whether the parameter is a bias."""
        return leaf == "bias"
