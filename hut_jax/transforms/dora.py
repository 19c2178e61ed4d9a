"""DoRA, weight-decomposed low-rank adaptation (Liu et al., arXiv 2402.09353, 2024, section 4).

    V = W0 + s A B        A: [d, r], drawn at random    B: [r, k], zero at the start    s = alpha / r
    W = m ⊙ V / |V|       m: [k], at the start |W0|; |.|: the norm of each column, an output's weights

The relative deviation of m is stored: `m = |W0| (1 + g)`. The layer computes `(x @ W0 + s (x @ A) @ B)` times
`m / |V|`. |V| is computed from |W0|, W0^T A and A^T A, so that no matrix of W0's size is formed. If A B nearly cancels
W0, |V| is less precise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError
from hut_jax.transforms.base import Cost, Factors, Layer, Transform, add, wide
from hut_jax.transforms.lora import LoRA
from hut_jax.transforms.low_rank import product


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA on the direction of each output's weights, and a scale for their norm.

    Attributes:
        detach: whether the gradient treats |V| as a constant, which saves memory (the paper's section 4.3).
    """

    detach: bool = True

    name: ClassVar[str] = "dora"
    learning_rate: ClassVar[float] = 3e-3

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """LoRA's `a: [d, r]` and `b: [r, k]`, and `g: [k]`, zeros."""
        return super().init(key, kernel, bias) | {"g": jnp.zeros(kernel.shape[1], jnp.float32)}

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`m ⊙ V / |V|`."""
        d = self.scaling * product(factors["a"], factors["b"])
        v = add(kernel.astype(wide(kernel, d)), d)
        return (v * self._scale(kernel, factors)).astype(kernel.dtype)

    def forward(
        self, layer: Layer, x: Float[Array, "*batch d"], factors: Factors, key: jax.Array | None = None
    ) -> Float[Array, "*batch k"]:
        """`(x @ W0 + s (x @ A) @ B) ⊙ m / |V| + bias`; dropout acts on the x of the low-rank path alone."""
        y = super().forward(replace(layer, bias=None), x, factors, key)
        y = (y * self._scale(layer.kernel, factors)).astype(y.dtype)
        return y if layer.bias is None else y + layer.bias.astype(y.dtype)

    def combine(self, sets: Sequence[tuple[Transform, Factors]], weights: Sequence[float]) -> tuple[Transform, Factors]:
        """Refuse: a sum of columns, each scaled to its own norm, is not of this form.

        Raises:
            UserError: always.
        """
        raise UserError("DoRA's factors do not combine: a sum of normalised columns is not normalised; merge instead")

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """LoRA's cost, a scale of the output, and |V|: the norms of W0, `W0^T A`, and terms in r squared."""
        lora, r = super().cost(n, d, k), self.rank
        norms = 2 * r * d * k + 2 * r * r * (d + k)
        norms_backward = 0 if self.detach else norms + 2 * r * r * (d + k)
        return Cost(lora.forward + n * k + norms + 2 * d * k, lora.backward + 3 * n * k + norms_backward)

    def _scale(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, " k"]:
        """`m / |V|`. It is computed so that zero factors give exactly 1."""
        a, b = factors["a"], self.scaling * factors["b"]
        w = kernel.astype(wide(kernel, a, b))
        base = jnp.sum(w * w, axis=0)
        cross = jnp.sum(product(w.T, a).T * b, axis=0)
        square = base + (2 * cross + jnp.sum(product(product(a.T, a), b) * b, axis=0))
        if self.detach:
            square = jax.lax.stop_gradient(square)
        # A column of zeros has no direction to keep: it stays as it is.
        ratio = jnp.where((base > 0) & (square > 0), base, 1) / jnp.where((base > 0) & (square > 0), square, 1)
        return jnp.sqrt(ratio) * (1 + factors["g"])
