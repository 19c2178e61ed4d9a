"""LayerNorm tuning (Zhao et al., "Tuning LayerNorm in Attention", arXiv 2312.11420, 2023).

scale = scale0 + d        bias = bias0 + d'        of every norm
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from hut_jax.transforms.full import Full


@dataclass(frozen=True)
class LayerNorm(Full):
    """The scale and bias of every norm among the targets. Flax's norms are the modules with a `scale`."""

    name: ClassVar[str] = "layernorm"
    learning_rate: ClassVar[float] = 1e-3

    def takes(self, leaf: str, siblings: Collection[str]) -> bool:
        """Whether the parameter is a norm's."""
        return "scale" in siblings and "kernel" not in siblings
