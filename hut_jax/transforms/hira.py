"""HiRA, Hadamard high-rank adaptation (Huang et al., ICLR 2025, "HiRA: Parameter-Efficient Hadamard High-Rank
Adaptation for Large Language Models", section 3.2).

    W = W0 ⊙ (1 + A B)        A: [d, r], drawn at random    B: [r, k], zero at the start

W0 times a matrix of low rank, entry by entry, has a far higher rank than A B.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from hut_jax.transforms.base import Cost, Factors, Transform, check_rank, same_kind, wide
from hut_jax.transforms.low_rank import concatenate, product, thin_pair


@dataclass(frozen=True)
class HiRA(Transform):
    """A low-rank matrix that multiplies the kernel entry by entry.

    Attributes:
        rank: r.
    """

    rank: int = 8

    name: ClassVar[str] = "hira"
    learning_rate: ClassVar[float] = 1e-2

    def __post_init__(self):
        check_rank("HiRA", self.rank)

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """`a: [d, r]`, uniform within 1 / sqrt(d), and `b: [r, k]`, zeros."""
        return thin_pair(key, kernel.shape, self.rank)

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`W0 ⊙ (1 + A B)`."""
        scale = 1 + product(factors["a"], factors["b"])
        return (kernel.astype(wide(kernel, scale)) * scale).astype(kernel.dtype)

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """Forward: `A B` and W. Backward: the gradient of W, `x^T g`, and from it those of A and B."""
        product = 2 * self.rank * d * k
        return Cost(product + 2 * d * k, 2 * n * d * k + 2 * product + d * k)

    def combine(self, sets: Sequence[tuple[Transform, Factors]], weights: Sequence[float]) -> tuple[Transform, Factors]:
        """Exactly `W0 ⊙ (1 + sum_i weights[i] A_i B_i)`, by concatenation: the ranks add up.

        Raises:
            UserError: the sets are not all of this transformation.
        """
        factors = concatenate([one for _, one in same_kind(self, sets)], weights)
        return replace(self, rank=factors["a"].shape[-1]), factors
