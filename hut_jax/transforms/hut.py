"""HUT, the Hadamard Updated Transformation (Zhang, Zhou and Chen, arXiv 2409.13501, 2024).

    W = (M_A x 1_A)^r ⊙ W0 ⊙ (1_B x M_B)^r    M_A: [d, r]    M_B: [r, k]
    h = gamma ⊙ (x @ W + bias) + beta          gamma, beta: [k]

How sure we are: the paper's body could not be had. Its abstract names two low-rank matrices and a Hadamard
transformation. The formula of W is second-hand, from a published review of the paper. A second review gives gamma and
beta. So no result of this library is a reproduction of the paper's tables.

What `x` and the index `r` mean is a reading, and each reading is a value of `spread` (spread.py has the formulas).
`block`, `cyclic` and `kronecker` cut outputs and inputs into r groups each: each group of outputs has its own scale for
every input, and each group of inputs its own scale for every output. `sum` takes `x` for the ordinary product with a
matrix of ones, and `product` takes r for an index that is summed over. At r = 1 all five are `diag(M_A) W0 diag(M_B)`.

The stored factors are deviations from the identity: `M_A = 1 + a`, `M_B = 1 + b`, `gamma = 1 + g`, `beta = s`. All are
zero at the start, but for `a[:, 1:]` of `product`, which is drawn as LoRA's A is: equal terms would stay equal.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError, nearest
from hut_jax.transforms.base import Cost, Factors, Layer, Transform, check_rank, same_kind, sum_by_weight, wide
from hut_jax.transforms.low_rank import concatenate, thin
from hut_jax.transforms.spread import GROUPED, SPREADS, around_identity, spread_product
from hut_jax.transforms.ssf import scale_and_shift


@dataclass(frozen=True)
class HUT(Transform):
    """Two low-rank Hadamard factors on the kernel, a scale and a shift on the output.

    Attributes:
        rank: r; it must divide both sides of every kernel, d and k, unless the spread is "sum" or "product".
        spread: the reading of the formula: "block", "cyclic", "kronecker", "sum" or "product".
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
        """A tenth for scale and shift, which do harm at the full learning rate (docs/method.md, "Learning rates").

        In the reading `sum`, r equal numbers add up, so each takes 1 / r of a step.
        """
        terms = {"a": 1 / self.rank, "b": 1 / self.rank} if self.spread == "sum" else {}
        return terms | {"g": 0.1, "s": 0.1}

    @property
    def forms_kernel(self) -> bool:
        """True, except where W is `diag(M_A) W0 diag(M_B)`: at r = 1 and in `sum`, activations are scaled instead."""
        return self.rank != 1 and self.spread != "sum"

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """Zeros: `a: [d, r]` and `b: [r, k]`, with `g: [k]` if gamma trains and `s: [k]` if beta trains.

        In the reading `product`, `a[:, 1:]` is uniform within 1 / sqrt(d).

        Raises:
            UserError: the rank must divide d and k and does not, or `shift` is on and the layer has no bias.
        """
        (d, k), r = kernel.shape, self.rank
        if self.spread in GROUPED and (d % r or k % r):
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
        factors = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
        if self.spread == "product" and r > 1:
            factors["a"] = jnp.concatenate([factors["a"][:, :1], thin(key, d, r - 1)], axis=1)
        return factors

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`(M_A x 1_A) ⊙ W0 ⊙ (1_B x M_B)`."""
        matrices = around_identity(self.spread, factors["a"], factors["b"])
        return spread_product(self.spread, kernel, *matrices).astype(kernel.dtype)

    def output(self, y: Float[Array, "*batch k"], factors: Factors) -> Float[Array, "*batch k"]:
        """`gamma ⊙ y + beta`, in y's dtype."""
        return scale_and_shift(y, factors)

    def forward(
        self, layer: Layer, x: Float[Array, "*batch d"], factors: Factors, key: jax.Array | None = None
    ) -> Float[Array, "*batch k"]:
        """The layer with the merged kernel and bias. At r = 1 and in `sum` it is `((x ⊙ M_A) @ W0) ⊙ M_B`.

        The second form needs no gradient of W.

        Scale and shift are folded into the kernel and bias, or in the second form into M_B and the bias. Of the
        activations only x is kept for the backward pass, as in LoRA. The second form keeps the product with W0 too.
        """
        if self.forms_kernel:
            return self._by_kernel(layer)(x, layer.kernel, layer.bias, factors)
        rows, columns = around_identity(self.spread, factors["a"], factors["b"])
        y = layer.dense((x * rows.squeeze(1)).astype(x.dtype), layer.kernel, None)
        y = (y.astype(wide(y)) * self._scaled(columns.squeeze(0), factors)).astype(y.dtype)
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

        At r = 1 and in `sum` there is no W: only products with activations cost something.
        """
        folded = n * k if self.scale or self.shift else 0  # the bias then has a gradient
        if not self.forms_kernel:
            terms = self.rank * (d + k) if self.rank > 1 else 0
            return Cost(n * (d + k) + terms, 3 * n * (d + k) + folded)
        small = self.rank * (d + (1 + self.scale) * k)
        if self.spread == "product":
            multiplier = 2 * self.rank * d * k
            form = multiplier + d * k + small
            return Cost(form, 2 * n * d * k + d * k + 2 * multiplier + form + folded)
        form = 2 * d * k + small
        return Cost(form, 2 * n * d * k + 5 * d * k + form + folded)

    def combine(self, sets: Sequence[tuple[Transform, Factors]], weights: Sequence[float]) -> tuple[Transform, Factors]:
        """The weighted sum of the deviations.

        Of the reading `product` that holds for gamma, beta and the first term, which is the whole multiplier at r = 1.
        The other terms, `sum_{s > 0} a[i, s] * b[s, j]`, are added exactly, by concatenation: one first term and all
        the others make the joint rank.

        Raises:
            UserError: the sets are not all of this transformation, or their settings differ (other than the rank in
                `product`).
        """
        if self.spread != "product":
            return super().combine(sets, weights)
        for transform, _ in same_kind(self, sets):
            if replace(cast(HUT, transform), rank=self.rank) != self:
                raise UserError(f"{self} and {transform} do not combine: their settings differ")
        firsts = [one | {"a": one["a"][..., :1], "b": one["b"][..., :1, :]} for _, one in sets]
        others = concatenate([{"a": one["a"][..., 1:], "b": one["b"][..., 1:, :]} for _, one in sets], weights)
        joint = {name: sum_by_weight([first[name] for first in firsts], weights) for name in firsts[0]}
        joint["a"] = jnp.concatenate([joint["a"], others["a"]], axis=-1)
        joint["b"] = jnp.concatenate([joint["b"], others["b"]], axis=-2)
        return replace(self, rank=joint["a"].shape[-1]), joint

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
            if gradient.size:  # a batch may have no rows
                zero = 0 * gradient.reshape(-1, gradient.shape[-1])[0].astype(factors["b"].dtype)
                factors = {**factors, "b": factors["b"] + zero}
            return jax.vjp(run, x, kernel, bias, factors)[1](gradient)

        by_kernel = jax.custom_vjp(run)
        by_kernel.defvjp(lambda *arguments: (run(*arguments), arguments), backward)
        return by_kernel

    def _merged(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors, *, split: bool
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        rows, columns = around_identity(self.spread, factors["a"], factors["b"])
        columns = self._scaled(columns, factors)  # gamma then costs r k products instead of d k
        merged = spread_product(self.spread, kernel, rows, columns, split=split).astype(kernel.dtype)
        return merged, None if bias is None else scale_and_shift(bias, factors)

    def _scaled(self, outputs: Float[Array, "*any k"], factors: Factors) -> Float[Array, "*any k"]:
        """`gamma ⊙ outputs` if gamma trains, else `outputs`."""
        return outputs * (1 + factors["g"]) if "g" in factors else outputs


def _nearest_ranks(rank: int, d: int, k: int) -> str:
    common = math.gcd(d, k)
    divisors = [r for r in range(1, common + 1) if common % r == 0]
    return ", ".join(map(str, sorted(sorted(divisors, key=lambda r: (abs(r - rank), r))[:2])))
