"""HUT, the Hadamard Updated Transformation (Zhang, Zhou and Chen, arXiv 2409.13501, 2024).

    W = (M_A x 1_A)^r ⊙ W0 ⊙ (1_B x M_B)^r    M_A: [d, r]    M_B: [r, k]
    h = gamma ⊙ (x @ W + bias) + beta          gamma, beta: [k]

How sure we are: the paper's body could not be had. Its abstract names two low-rank matrices and a Hadamard
transformation. The formula of W is second-hand, from a published review of the paper. A second review gives gamma and
beta. So no result of this library is a reproduction of the paper's tables.

What `x` and the index `r` mean is our reading, the `spread`. Both of our readings multiply entry by entry:

    W[i, j] = M_A[i, q(j)] * W0[i, j] * M_B[p(i), j]

    block     q(j) = j // (k/r)    p(i) = i // (d/r)    a group is a run of neighbours
    cyclic    q(j) = j mod r       p(i) = i mod r       a group takes every r-th

The outputs form r groups, and each group has its own scale for every input. The inputs form r groups, and each group
has its own scale for every output. At r = 1 both readings are `diag(M_A) W0 diag(M_B)`.

The stored factors are deviations from the identity: `M_A = 1 + a`, `M_B = 1 + b`, `gamma = 1 + g`, `beta = s`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError, nearest
from hut_jax.transforms.base import Cost, Factors, Layer, Transform, check_rank, wide
from hut_jax.transforms.spread import SPREADS, spread_product
from hut_jax.transforms.ssf import scale_and_shift


@dataclass(frozen=True)
class HUT(Transform):
    """Two low-rank Hadamard factors on the kernel, a scale and a shift on the output.

    Attributes:
        rank: r; it must divide both sides of every kernel, d and k. At r = 1, W is `diag(1 + a) W0 diag(1 + b)`.
        spread: how the low-rank matrices are spread over W0, "block" or "cyclic": our reading of the formula.
        scale: whether gamma trains.
        shift: whether beta trains. Every layer must then have a bias, since merging adds beta to the bias.
    """

    rank: int = 8
    spread: str = "block"
    scale: bool = True
    shift: bool = True

    name: ClassVar[str] = "hut"
    learning_rate: ClassVar[float] = 2e-2  # docs/method.md, "Learning rates"

    def __post_init__(self):
        check_rank("HUT", self.rank)
        if self.spread not in SPREADS:
            raise UserError(f"HUT: unknown spread {self.spread!r}; {nearest(str(self.spread), SPREADS)}")

    @property
    def learning_rate_multipliers(self) -> Mapping[str, float]:
        """A tenth for scale and shift, which do harm at the full learning rate (docs/method.md, "Learning rates")."""
        return {"g": 0.1, "s": 0.1}

    @property
    def forms_kernel(self) -> bool:
        """True, except at r = 1, where activations are scaled instead."""
        return self.rank != 1

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """Zeros: `a: [d, r]` and `b: [r, k]`, with `g: [k]` if gamma trains and `s: [k]` if beta trains.

        Raises:
            UserError: the rank does not divide d and k, or `shift` is on and the layer has no bias.
        """
        (d, k), r = kernel.shape, self.rank
        if d % r or k % r:
            raise UserError(
                f"HUT: rank {r} does not divide both sides of a kernel of shape [{d}, {k}]; "
                f"the nearest ranks that do: {_nearest_ranks(r, d, k)}"
            )
        if self.shift and bias is None:
            raise UserError("HUT: shift=True needs a layer with a bias; this one has none, use shift=False")
        shapes: dict[str, tuple[int, ...]] = {"a": (d, r), "b": (r, k)}
        if self.scale:
            shapes["g"] = (k,)
        if self.shift:
            shapes["s"] = (k,)
        return {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`(M_A x 1_A) ⊙ W0 ⊙ (1_B x M_B)`."""
        return spread_product(self.spread, kernel, 1 + factors["a"], 1 + factors["b"]).astype(kernel.dtype)

    def output(self, y: Float[Array, "*batch k"], factors: Factors) -> Float[Array, "*batch k"]:
        """`gamma ⊙ y + beta`, in y's dtype."""
        return scale_and_shift(y, factors)

    def forward(
        self, layer: Layer, x: Float[Array, "*batch d"], factors: Factors, key: jax.Array | None = None
    ) -> Float[Array, "*batch k"]:
        """The layer with the merged kernel and bias. At r = 1 it is `((x ⊙ M_A) @ W0) ⊙ M_B`.

        The second form needs no gradient of W.

        Scale and shift are folded into the kernel and bias, or at r = 1 into M_B and the bias. Of the activations only
        x is kept for the backward pass, as in LoRA. At r = 1 the product with W0 is kept too.
        """
        if self.forms_kernel:
            return self._by_kernel(layer)(x, layer.kernel, layer.bias, factors)
        y = layer.dense((x * (1 + factors["a"].squeeze(1))).astype(x.dtype), layer.kernel, None)
        y = (y.astype(wide(y)) * self._scaled(1 + factors["b"].squeeze(0), factors)).astype(y.dtype)
        if layer.bias is None:
            return y
        # Added in y's own dtype, as the layer does: XLA then rounds y in both, and zero factors change no bit.
        return y + scale_and_shift(layer.bias, factors).astype(y.dtype)

    def merge(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        """The kernel and bias with scale and shift folded in: `W ⊙ gamma` and `gamma ⊙ bias + beta`."""
        return self._merged(kernel, bias, factors, split=False)

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """The cost of W, which the forward and the backward pass each form, and of its gradient.

        At r = 1 there is no W: only products with activations cost something.
        """
        folded = n * k if self.scale or self.shift else 0  # the bias then has a gradient
        if self.rank == 1:
            return Cost(n * (d + k), 3 * n * (d + k) + folded)
        form = 2 * d * k + self.rank * (d + (1 + self.scale) * k)
        return Cost(form, 2 * n * d * k + 5 * d * k + form + folded)

    def _by_kernel(self, layer: Layer) -> Callable[..., Array]:
        """The layer with the merged kernel. Its backward pass forms W again, which is cheap, instead of keeping it.

        `jax.checkpoint` is not enough on CPUs: XLA's compiler sees that W is computed twice, and keeps the first W.
        So a zero is added to the second, which makes it depend on the gradient.
        """

        def run(x, kernel, bias, factors):
            return layer.dense(x, *self._merged(kernel, bias, factors, split=layer.split))

        def backward(arguments, gradient):
            x, kernel, bias, factors = arguments
            # One row of the gradient is split as the columns of b are, so devices send each other nothing for it.
            zero = 0 * gradient.reshape(-1, gradient.shape[-1])[0].astype(factors["b"].dtype)
            factors = {**factors, "b": factors["b"] + zero}
            return jax.vjp(run, x, kernel, bias, factors)[1](gradient)

        by_kernel = jax.custom_vjp(run)
        by_kernel.defvjp(lambda *arguments: (run(*arguments), arguments), backward)
        return by_kernel

    def _merged(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors, *, split: bool
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        columns = self._scaled(1 + factors["b"], factors)  # gamma then costs r k products instead of d k
        merged = spread_product(self.spread, kernel, 1 + factors["a"], columns, split=split).astype(kernel.dtype)
        return merged, None if bias is None else scale_and_shift(bias, factors)

    def _scaled(self, outputs: Float[Array, "*any k"], factors: Factors) -> Float[Array, "*any k"]:
        """`gamma ⊙ outputs` if gamma trains, else `outputs`."""
        return outputs * (1 + factors["g"]) if "g" in factors else outputs


def _nearest_ranks(rank: int, d: int, k: int) -> str:
    common = math.gcd(d, k)
    divisors = [r for r in range(1, common + 1) if common % r == 0]
    return ", ".join(map(str, sorted(sorted(divisors, key=lambda r: (abs(r - rank), r))[:2])))
