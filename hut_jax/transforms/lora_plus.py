"""LoRA+ (Hayou, Ghosh and Yu, arXiv 2402.12354, 2024): LoRA whose B learns faster than its A.

    W = W0 + s A B        the learning rate of B is `ratio` times that of A

With one learning rate, A and B cannot both learn well in a wide layer. By the paper's analysis the ratio must be large.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hut_jax.transforms.base import check_number
from hut_jax.transforms.lora import LoRA


@dataclass(frozen=True)
class LoRAPlus(LoRA):
    """LoRA with a learning rate of its own for B.

    Attributes:
        ratio: B's learning rate divided by A's, which is the run's. The paper's experiments take 16 (section 5).
    """

    ratio: float = 16.0

    name: ClassVar[str] = "lora_plus"
    learning_rate: ClassVar[float] = 5e-4

    def __post_init__(self):
        super().__post_init__()
        check_number("LoRA+", "ratio", self.ratio, 0.0)

    @property
    def learning_rate_multipliers(self) -> Mapping[str, float]:
        """The multiplier of B: `ratio`."""
        return {"b": self.ratio}
