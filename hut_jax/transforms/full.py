"""Full fine-tuning as a member of the family: `W = W0 + D`, where every entry of D trains."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.transforms.base import Cost, Factors, Transform, add, wide


@dataclass(frozen=True)
class Full(Transform):
    """A parameter of any shape plus `D`, of the same shape.

    `D` trains, not `W`, so that weight decay pulls towards the pretrained model, as with the other transformations.
    With a base drawn at random this is pre-training.
    """

    name: ClassVar[str] = "full"
    learning_rate: ClassVar[float] = 1e-4
    default_targets: ClassVar[tuple[str, ...]] = ("",)
    whole_leaves: ClassVar[bool] = True

    def init(self, key: jax.Array, kernel: Float[Array, "..."], bias: Array | None = None) -> Factors:
        """Zeros of the parameter's shape."""
        return {"d": jnp.zeros(kernel.shape, jnp.float32)}

    def weight(self, kernel: Float[Array, "..."], factors: Factors) -> Float[Array, "..."]:
        """`W0 + D`, in W0's dtype."""
        d = factors["d"]
        return add(kernel.astype(wide(kernel, d)), d).astype(kernel.dtype)

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """The sum, and the gradient: `x^T g` of a kernel, sums over n of a bias, a scale or an embedding."""
        gradient = {"kernel": 2 * n * d * k, "scale": 2 * n * k}.get(leaf, n * k)
        return Cost(2 * d * k, gradient + 2 * d * k)
