"""What every transformation of a frozen kernel promises: `W = U(W0; factors)`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError

Factors = dict[str, Array]
"""The numbers that train for one kernel, by name; zero (or zero in effect) is the identity."""

Dense = Callable[[Array, Array, Array | None], Array]
"""`dense(x, kernel, bias)`: the adapted module itself, run with another kernel and bias (None: without one)."""

QUERY_VALUE = (
    r"attention/(query|value)$",  # this library's models
    r"attention/self/(query|value)$",  # transformers' Flax BERT and RoBERTa
)
"""Query and value, as each model family names them."""


class Cost(NamedTuple):
    """Floating-point operations beyond the frozen layer's.

    Attributes:
        forward: of the layer's output.
        backward: of the gradients by the factors and by the layer's input, together.
    """

    forward: int
    backward: int


@dataclass(frozen=True)
class Transform:
    """One member of the family, as pure functions of one kernel.

    A kernel comes as a matrix `[d, k]` (`y = x @ kernel + bias`), whatever axes its module gives it: the
    adapter flattens axes and maps over stacked layers. A transformation holds its own settings and no arrays.
    """

    name: ClassVar[str]
    """What a config calls it."""

    learning_rate: ClassVar[float]
    """The peak rate of a run whose config gives none."""

    default_targets: ClassVar[tuple[str, ...]] = QUERY_VALUE
    """Patterns to target where none are given: the first that matches is taken."""

    whole_leaves: ClassVar[bool] = False
    """Whether it acts on any parameter, of any shape, rather than on the kernel and output of a dense layer."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Factors whose learning rate is the run's times this; 1 where a factor is not named."""
        return {}

    @property
    def forms_kernel(self) -> bool:
        """Whether `forward` forms W, whose gradient is then formed too, on its way to the factors'."""
        return True

    @property
    def random(self) -> bool:
        """Whether `forward` draws at random in training, and then wants its key."""
        return False

    def at(self, path: str) -> "Transform":
        """The transformation for the layer at this path: itself, unless its settings tell layers apart."""
        return self

    def takes(self, leaf: str, siblings: Collection[str]) -> bool:
        """Whether a transformation of whole leaves acts on a parameter of this name beside these others."""
        return True

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
        x: Float[Array, "*batch d"],
        kernel: Float[Array, "d k"],
        bias: Float[Array, " k"] | None,
        factors: Factors,
        key: jax.Array | None = None,
    ) -> Float[Array, "*batch k"]:
        """The adapted layer's output for input `x`.

        Args:
            dense: the layer itself, for any kernel and bias.
            x: its input.
            kernel: W0.
            bias: the base's.
            factors: what trains.
            key: for what is random in training; None otherwise.
        """
        return self.output(dense(x, self.weight(kernel, factors), bias), factors)

    def merge(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        """The kernel and bias of a plain layer that computes what `forward` does."""
        return self.weight(kernel, factors), bias

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost | None:
        """What `forward` and its gradient cost beyond the frozen layer, on paper; None where it is not worked out.

        A product of `[m, k]` and `[k, n]` is 2mnk operations, and other arithmetic one for each number. Left out are
        terms without n that are no larger than the factors, and dropout.

        Args:
            n: tokens, all of a batch's.
            d: inputs.
            k: outputs.
            leaf: for a transformation of whole leaves, which of a module's: "kernel", "embedding" (a lookup of n
                rows), or "bias" or "scale", which have d = 1.
        """
        return None

    def under(self, other: "Transform", factors: Factors) -> Factors:
        """The factors that do under the settings `other` what these do under these, ranks being equal."""
        return factors

    def combine(
        self, sets: Sequence[tuple["Transform", Factors]], weights: Sequence[float]
    ) -> tuple["Transform", Factors]:
        """One transformation and factor set for several sets of the same layer, each with its weight.

        Unless a transformation knows better, the deviations are summed by weight.

        Raises:
            UserError: these sets do not combine.
        """
        for transform, _ in same_kind(self, sets):
            if transform != self:
                raise UserError(f"{self} and {transform} do not combine: their settings differ")
        return self, {name: sum_by_weight([factors[name] for _, factors in sets], weights) for name in sets[0][1]}


def wide(*arrays: Array) -> jnp.dtype:
    """The dtype in which a product of these is formed: fp32, or fp64 where one of them has it."""
    return jnp.result_type(jnp.float32, *arrays)


def add(w: Array, d: Array) -> Array:
    """`w + d`, except that adding a zero leaves every bit of `w`, the sign of a zero included."""
    return w - (0 - d)


def same_kind(transform: Transform, sets: Sequence[tuple[Transform, Factors]]) -> Sequence[tuple[Transform, Factors]]:
    """The sets, once they are known to be all of this transformation, whatever their settings.

    Raises:
        UserError: one is not.
    """
    for other, _ in sets:
        if type(other) is not type(transform):
            raise UserError(f"{transform.name} and {other.name} do not combine; merge one and train or add the other")
    return sets


def sum_by_weight(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """`sum_i weights[i] * arrays[i]`."""
    return sum((w * array for w, array in zip(weights, arrays, strict=True)), jnp.zeros_like(arrays[0]))


def check_rank(name: str, rank: Any) -> None:
    """Refuse what is no rank.

    Raises:
        UserError: it is no whole number of at least 1.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError(f"{name}: rank must be a whole number of at least 1, not {rank!r}")


def check_number(name: str, field: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Refuse a setting that is no number in `[low, high)`.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        below = "" if high == float("inf") else f" and below {high:g}"
        raise UserError(f"{name}: {field} must be a number of at least {low:g}{below}, not {value!r}")
