"""LoRA, low-rank adaptation (Hu et al., arXiv 2106.09685, 2021, section 4.1).

    W = W0 + s A B        A: [d, r], drawn at random    B: [r, k], zero at the start
    s = alpha / r, or alpha / sqrt(r) with `rs` (rsLoRA: Kalajdzievski, arXiv 2312.03732, 2023)

In training the low-rank path runs beside the layer, `x @ W0 + bias + s (dropout(x) @ A) @ B`, and never forms W.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.products import matmul
from hut_jax.transforms.base import Cost, Factors, Layer, Transform, add, check_number, check_rank, same_kind, wide
from hut_jax.transforms.low_rank import concatenate, product, thin_pair


@dataclass(frozen=True)
class LoRA(Transform):
    """A product of two thin matrices, added to the kernel.

    Attributes:
        rank: r.
        alpha: the numerator of the scaling.
        rs: whether the scaling is alpha / sqrt(r), which keeps the size of the low-rank path as r grows.
        dropout: the share of x that is dropped from the low-rank path in training.
    """

    rank: int = 8
    alpha: float = 16.0
    rs: bool = False
    dropout: float = 0.0

    name: ClassVar[str] = "lora"
    learning_rate: ClassVar[float] = 1e-3  # docs/glue.md

    def __post_init__(self):
        name = type(self).__name__
        check_rank(name, self.rank)
        check_number(name, "alpha", self.alpha, 0.0)
        check_number(name, "dropout", self.dropout, 0.0, 1.0)

    @property
    def random(self) -> bool:
        """Whether there is dropout."""
        return self.dropout > 0

    @property
    def scaling(self) -> float:
        """s."""
        return self.alpha / (math.sqrt(self.rank) if self.rs else self.rank)

    @property
    def forms_kernel(self) -> bool:
        """Never: the products are with A and B."""
        return False

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """`a: [d, r]`, uniform within 1 / sqrt(d), and `b: [r, k]`, zeros."""
        return thin_pair(key, kernel.shape, self.rank)

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`W0 + s A B`."""
        d = self.scaling * product(factors["a"], factors["b"])
        return add(kernel.astype(wide(kernel, d)), d).astype(kernel.dtype)

    def forward(
        self, layer: Layer, x: Float[Array, "*batch d"], factors: Factors, key: jax.Array | None = None
    ) -> Float[Array, "*batch k"]:
        """The layer, and the low-rank path beside it."""
        y = layer.dense(x, layer.kernel, layer.bias)
        if key is not None:
            x = jnp.where(jax.random.bernoulli(key, 1 - self.dropout, x.shape), x / (1 - self.dropout), 0)
        return add(y, self.path(x, y.dtype, factors))

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """Two thin products, twice as much for their gradients, and the sums that add the path to the layer."""
        thin = n * self.rank * (d + k)
        return Cost(2 * thin + 2 * n * k, 4 * thin + n * (2 * k + d))

    def path(self, x: Float[Array, "*batch d"], dtype: jnp.dtype, factors: Factors) -> Float[Array, "*batch k"]:
        """`s (x A) B`, computed in `dtype`."""
        thin = matmul(x.astype(dtype), factors["a"].astype(dtype))
        return matmul(thin, (self.scaling * factors["b"]).astype(dtype))

    def under(self, other: Transform, factors: Factors) -> Factors:
        """Rescale B by the ratio of the scalings."""
        return factors | {"b": factors["b"] * (self.scaling / cast(LoRA, other).scaling)}

    def combine(self, sets: Sequence[tuple[Transform, Factors]], weights: Sequence[float]) -> tuple[Transform, Factors]:
        """Exactly `sum_i weights[i] s_i A_i B_i`, by concatenation: the ranks add up, and s becomes 1.

        Raises:
            UserError: the sets are not all of this transformation.
        """
        scalings = [cast(LoRA, transform).scaling for transform, _ in same_kind(self, sets)]
        factors = concatenate([one for _, one in sets], [w * s for w, s in zip(weights, scalings, strict=True)])
        rank = factors["a"].shape[-1]
        return replace(self, rank=rank, alpha=float(rank), rs=False), factors
