"""LoHa, the low-rank Hadamard product (Hyeon-Woo, Ye-Bin and Oh, "FedPara", arXiv 2108.06098, 2021, section 2.2;
as an adapter: Yeh et al., LyCORIS, arXiv 2309.14859, 2023).

    W = W0 + s (A1 B1) ⊙ (A2 B2)        A1, A2: [d, r]    B1, B2: [r, k]    s = alpha / r

The entrywise product of two matrices of rank r has a rank of up to r squared. A1, B1 and A2 are drawn at random, and
B2 is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError
from hut_jax.transforms.base import Cost, Factors, Transform, add, check_number, check_rank, wide
from hut_jax.transforms.low_rank import product, thin


@dataclass(frozen=True)
class LoHa(Transform):
    """The entrywise product of two low-rank matrices, added to the kernel.

    Attributes:
        rank: r, the rank of each of the two matrices.
        alpha: the numerator of the scaling.
    """

    rank: int = 8
    alpha: float = 8.0

    name: ClassVar[str] = "loha"
    learning_rate: ClassVar[float] = 3e-3

    def __post_init__(self):
        check_rank("LoHa", self.rank)
        check_number("LoHa", "alpha", self.alpha, 0.0)

    @property
    def scaling(self) -> float:
        """s."""
        return self.alpha / self.rank

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """`a1, a2: [d, r]`, `b1: [r, k]`, random, and `b2: [r, k]`, zeros."""
        (d, k), r = kernel.shape, self.rank
        first, second, third = jax.random.split(key, 3)
        return {
            "a1": thin(first, d, r),
            "b1": thin(second, r, k),
            "a2": thin(third, d, r),
            "b2": jnp.zeros((r, k), jnp.float32),
        }

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`W0 + s (A1 B1) ⊙ (A2 B2)`."""
        d = self.scaling * product(factors["a1"], factors["b1"]) * product(factors["a2"], factors["b2"])
        return add(kernel.astype(wide(kernel, d)), d).astype(kernel.dtype)

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """HiRA's cost, with two products instead of one."""
        products = 4 * self.rank * d * k
        return Cost(products + 4 * d * k, 2 * n * d * k + 2 * products + 5 * d * k)

    def combine(self, sets: Sequence[tuple[Transform, Factors]], weights: Sequence[float]) -> tuple[Transform, Factors]:
        """Refuse: a sum of such products is not one such product of the same rank.

        Raises:
            UserError: always.
        """
        raise UserError(
            "LoHa's factors do not combine: a sum of entrywise products is not one such product; merge instead"
        )
