"""SSF, scaling and shifting your features (Lian et al., arXiv 2210.08823, 2022, section 3.1).

    y = gamma ⊙ (x @ W0 + bias) + beta        gamma, beta: [k]

The stored factors are deviations from the identity: `gamma = 1 + g`, `beta = s`. The paper puts a pair after
every operation of its transformers. Here a pair follows every targeted dense layer. The default targets are all dense
layers of attention and feed-forward.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError
from hut_jax.transforms.base import Cost, Factors, Transform, add, wide


@dataclass(frozen=True)
class SSF(Transform):
    """A scale and a shift of the output.

    Attributes:
        shift: whether beta trains. Every layer must then have a bias, since merging adds beta to the bias.
    """

    shift: bool = True

    name: ClassVar[str] = "ssf"
    learning_rate: ClassVar[float] = 5e-3
    default_targets: ClassVar[tuple[str, ...]] = (r"attention/(query|key|value|out)$|mlp/(gate|up|down)$", "all-linear")

    @property
    def forms_kernel(self) -> bool:
        """Never: the output is scaled."""
        return False

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """Zeros: `g: [k]`, and `s: [k]` if beta trains.

        Raises:
            UserError: `shift` is on and the layer has no bias.
        """
        if self.shift and bias is None:
            raise UserError("SSF: shift=True needs a layer with a bias; this one has none, use shift=False")
        names = ("g", "s") if self.shift else ("g",)
        return {name: jnp.zeros(kernel.shape[1], jnp.float32) for name in names}

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """W0: the kernel itself is not transformed."""
        return kernel

    def output(self, y: Float[Array, "*batch k"], factors: Factors) -> Float[Array, "*batch k"]:
        """`gamma ⊙ y + beta`, in y's dtype."""
        return scale_and_shift(y, factors)

    def merge(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        """`W0 ⊙ gamma` and `gamma ⊙ bias + beta`."""
        merged = (kernel.astype(wide(kernel)) * (1 + factors["g"])).astype(kernel.dtype)
        return merged, None if bias is None else scale_and_shift(bias, factors)

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """The cost of scaling the output alone: the kernel has no gradient.

        The scale's gradients are two products and a sum, the shift's a negation and a sum.
        """
        return Cost((1 + self.shift) * n * k, (3 + 2 * self.shift) * n * k)


def scale_and_shift(y: Float[Array, "*batch k"], factors: Factors) -> Float[Array, "*batch k"]:
    """`(1 + g) ⊙ y + s` in y's dtype, without g or s if there is none."""
    out = y.astype(wide(y))
    if "g" in factors:
        out = out * (1 + factors["g"])
    if "s" in factors:
        out = add(out, factors["s"])
    return out.astype(y.dtype)
