"""The interface of every transformation of a frozen kernel: `W = U(W0; factors)`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError

Factors = dict[str, Array]
"""The trainable arrays of one kernel, by name. If all are zero, W is W0. In a product of two, one zero is enough."""

QUERY_VALUE = (
    r"attention/(query|value)$",  # this library's models
    r"attention/self/(query|value)$",  # transformers' Flax BERT and RoBERTa
    r"(^|/)(query|value)$",  # Flax's MultiHeadDotProductAttention, T5X, MaxText
    r"(^|/)[qv]_proj$",  # Llama, OPT, BART, Whisper, CLIP
    r"(^|/)([qv]_lin|to_[qv])$|[Aa]ttention[^/]*/[qv]$",  # DistilBERT; diffusers; T5
    r"(^|/)(q|kv|qkv)_einsum$",  # gemma
    r"(^|/)(c_attn|qkv|qkv_proj|in_proj|query_key_value)$",  # query, key and value in one: GPT-2, BLOOM, GPT-NeoX
)
"""Query and value, as each model family names them."""


@dataclass(frozen=True)
class Layer:
    """A dense layer as a transformation sees it.

    Attributes:
        dense: `dense(x, kernel, bias)` runs the module's own code with another kernel and bias (None: no bias).
        kernel: W0.
        bias: the base's bias, or None.
        split: whether the kernel is split over several devices.
    """

    dense: Callable[[Array, Array, Array | None], Array]
    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"] | None
    split: bool = False


class Cost(NamedTuple):
    """Floating-point operations beyond the frozen layer's.

    Attributes:
        forward: for the layer's output.
        backward: for the gradients with respect to the factors and to the layer's input, together.
    """

    forward: int
    backward: int


@dataclass(frozen=True)
class Transform:
    """One member of the family, as pure functions of one kernel.

    A kernel is always a matrix `[d, k]` (`y = x @ kernel + bias`). The adapter flattens the axes of a module's kernel
    and maps over stacked layers. A transformation holds its settings, and no arrays.
    """

    name: ClassVar[str]
    """Its name in a config."""

    learning_rate: ClassVar[float]
    """The peak learning rate of a run whose config gives none."""

    default_targets: ClassVar[tuple[str, ...]] = QUERY_VALUE
    """The default targets: the first of these patterns that matches a path."""

    whole_leaves: ClassVar[bool] = False
    """Whether it acts on parameters of any shape, rather than on the kernel and output of a dense layer."""

    @property
    def learning_rate_multipliers(self) -> Mapping[str, float]:
        """The learning-rate multipliers of factors by name; 1 for a factor that is not named."""
        return {}

    @property
    def forms_kernel(self) -> bool:
        """Whether `forward` forms W. If so, the backward pass forms the gradient of W, to get those of the factors."""
        return True

    @property
    def random(self) -> bool:
        """Whether `forward` uses random numbers in training, and so needs a key."""
        return False

    def at(self, path: str) -> "Transform":
        """The transformation for the layer at this path: itself, unless its settings depend on the layer."""
        return self

    def takes(self, leaf: str, siblings: Collection[str]) -> bool:
        """Whether a transformation of whole leaves acts on `leaf`, in a module whose parameters are `siblings`."""
        return True

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """Factors in fp32 under which the kernel is unchanged.

        Raises:
            UserError: the settings do not fit this kernel.
        """
        raise NotImplementedError

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`U(W0)`, formed in fp32 (or wider) and rounded once to the kernel's dtype."""
        raise NotImplementedError

    def output(self, y: Float[Array, "*batch k"], factors: Factors) -> Float[Array, "*batch k"]:
        """The layer's output, from `y = x @ W + bias`. By default it is y."""
        return y

    def forward(
        self, layer: Layer, x: Float[Array, "*batch d"], factors: Factors, key: jax.Array | None = None
    ) -> Float[Array, "*batch k"]:
        """The adapted layer's output.

        Args:
            layer: the dense layer and its frozen parameters.
            x: its input.
            factors: what trains.
            key: for the random numbers in training; None otherwise.
        """
        return self.output(layer.dense(x, self.weight(layer.kernel, factors), layer.bias), factors)

    def merge(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        """The kernel and bias of a plain layer that computes what `forward` does."""
        return self.weight(kernel, factors), bias

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost | None:
        """The cost of `forward` and its gradient beyond the frozen layer, by a formula; None if there is no formula.

        A product of `[m, k]` and `[k, n]` is 2mnk operations. Other arithmetic is one operation for each entry of its
        result. The formulas leave out dropout, and small terms: those without n that are no larger than the factors.

        Args:
            n: the tokens of a batch.
            d: the number of inputs.
            k: the number of outputs.
            leaf: for a transformation of whole leaves, the name of the parameter: "kernel", "embedding" (a lookup of n
                rows), or "bias" or "scale", which have d = 1.
        """
        return None

    def under(self, other: "Transform", factors: Factors) -> Factors:
        """Convert factors to the settings of `other`, so that W stays the same. The ranks must be equal."""
        return factors

    def combine(
        self, sets: Sequence[tuple["Transform", Factors]], weights: Sequence[float]
    ) -> tuple["Transform", Factors]:
        """One transformation and factor set for several sets of the same layer, each with its weight.

        The default is the weighted sum of the deviations.

        Raises:
            UserError: these sets do not combine.
        """
        for transform, _ in same_kind(self, sets):
            if transform != self:
                raise UserError(f"{self} and {transform} do not combine: their settings differ")
        return self, {name: sum_by_weight([factors[name] for _, factors in sets], weights) for name in sets[0][1]}


def wide(*arrays: Array) -> jnp.dtype:
    """The dtype in which a product of these is formed: fp64 if one of them is fp64, else fp32."""
    return jnp.result_type(jnp.float32, *arrays)


def add(w: Array, d: Array) -> Array:
    """`w + d`, except that adding a zero keeps every bit of `w`, even the sign of a zero."""
    return w - (0 - d)


def same_kind(transform: Transform, sets: Sequence[tuple[Transform, Factors]]) -> Sequence[tuple[Transform, Factors]]:
    """Check that all sets are of this transformation, with any settings, and return them.

    Raises:
        UserError: one is of another transformation.
    """
    for other, _ in sets:
        if type(other) is not type(transform):
            raise UserError(f"{transform.name} and {other.name} do not combine; merge one and train or add the other")
    return sets


def sum_by_weight(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """`sum_i weights[i] * arrays[i]`."""
    return sum((w * array for w, array in zip(weights, arrays, strict=True)), jnp.zeros_like(arrays[0]))


def check_rank(name: str, rank: Any) -> None:
    """Check a rank.

    Raises:
        UserError: it is not a whole number of at least 1.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UserError(f"{name}: rank must be a whole number of at least 1, not {rank!r}")


def check_number(name: str, field: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Check that a setting is a number in `[low, high)`.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        below = "" if high == float("inf") else f" and below {high:g}"
        raise UserError(f"{name}: {field} must be a number of at least {low:g}{below}, not {value!r}")
