"""What every transformation of a frozen kernel promises: `W = U(W0; factors)`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Factors = dict[str, Array]
"""The numbers that train for one kernel, by name; zero (or zero in effect) is the identity."""

Dense = Callable[[Array, Array, Array | None], Array]
"""`dense(x, kernel, bias)`: the adapted module itself, run with another kernel and bias."""


@dataclass(frozen=True)
class Transform:
    """One member of the family, as pure functions of one kernel.

    A kernel comes as a matrix `[d, k]` (`y = x @ kernel + bias`), whatever axes its module gives it: the
    adapter flattens axes and maps over stacked layers. A transformation holds its own settings and no arrays.
    """

    name: ClassVar[str]
    """What a config calls it."""

    whole_leaves: ClassVar[bool] = False
    """Whether it acts on any parameter, of any shape, rather than on the kernel and output of a dense layer."""

    rates: ClassVar[Mapping[str, float]] = {}
    """Factors whose learning rate is the run's times this; 1 where a factor is not named."""

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """Factors in fp32 under which the kernel is unchanged.

        Raises:
            UserError: the settings do not fit this kernel.
        """
        raise NotImplementedError

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`U(W0)` in the kernel's dtype, formed in fp32 (or wider) and rounded once."""
        raise NotImplementedError

    def output(self, y: Float[Array, "*batch k"], factors: Factors) -> Float[Array, "*batch k"]:
        """What happens to the layer's output after `x @ W + bias`; nothing unless a transformation says so."""
        return y

    def forward(
        self,
        dense: Dense,
        x: Array,
        kernel: Float[Array, "d k"],
        bias: Float[Array, " k"] | None,
        factors: Factors,
    ) -> Float[Array, "*batch k"]:
        """The adapted layer's output for input `x`, which `dense` knows how to read."""
        return self.output(dense(x, self.weight(kernel, factors), bias), factors)

    def merge(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        """The kernel and bias of a plain layer that computes what `forward` does."""
        return self.weight(kernel, factors), bias


def wide(*arrays: Array) -> jnp.dtype:
    """The dtype in which a product of these is formed: fp32, or fp64 where one of them has it."""
    return jnp.result_type(jnp.float32, *arrays)


def add(w: Array, d: Array) -> Array:
    """`w + d`, except that adding a zero leaves every bit of `w`, the sign of a zero included."""
    return w - (0 - d)
