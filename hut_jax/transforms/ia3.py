"""IA3 (Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
arXiv 2205.05638, 2022, section 3.3).

    key and value:            y = (1 + l) ⊙ (x @ W0 + bias)        l: [k]
    feed-forward's second:    y = ((1 + l) ⊙ x) @ W0 + bias        l: [d]

The paper scales keys, values and the feed-forward's inner activations, which are its second layer's inputs.
"""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.errors import UserError, nearest
from hut_jax.transforms.base import Cost, Factors, Layer, Transform, wide

SIDES = ("output", "input")


@dataclass(frozen=True)
class IA3(Transform):
    """One scale for each activation.

    Attributes:
        side: which activations: a layer's "output" or its "input".
        feedforward: a pattern for layers whose inputs are scaled, whatever `side` is; "" for none. The default has this
            library's models and transformers' Flax BERT and RoBERTa; name those of another family.
    """

    side: str = "output"
    feedforward: str = r"mlp/down$|layer/\d+/output/dense$"

    name: ClassVar[str] = "ia3"
    learning_rate: ClassVar[float] = 3e-3  # T-Few's, appendix D
    default_targets: ClassVar[tuple[str, ...]] = (
        r"attention/(key|value)$|mlp/down$",
        r"attention/self/(key|value)$|layer/\d+/output/dense$",
        r"(^|/)(key|value)$",  # Flax's attention; the rest are the families of base.QUERY_VALUE
        r"(^|/)[kv]_proj$|(^|/)(down_proj|fc2)$",
        r"(^|/)([kv]_lin|lin2|to_[kv])$|[Aa]ttention[^/]*/[kv]$|(^|/)wo$",
        r"(^|/)(kv|qkv)_einsum$|mlp/linear$",
        r"(^|/)(c_attn|qkv|qkv_proj|in_proj|query_key_value)$|mlp/c_proj$",
    )

    def __post_init__(self):
        if self.side not in SIDES:
            raise UserError(f"IA3: unknown side {self.side!r}; {nearest(str(self.side), SIDES)}")
        try:
            re.compile(self.feedforward)
        except (re.error, TypeError) as error:
            raise UserError(f"IA3: feedforward {self.feedforward!r} is not a regular expression: {error}") from None

    def at(self, path: str) -> "IA3":
        """The transformation with the `side` of the layer at this path."""
        side = "input" if self.feedforward and re.search(self.feedforward, path) else self.side
        return replace(self, side=side)

    @property
    def forms_kernel(self) -> bool:
        """Never: activations are scaled."""
        return False

    def init(self, key: jax.Array, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None) -> Factors:
        """`l`, zeros: `[k]`, or `[d]` if inputs are scaled."""
        d, k = kernel.shape
        return {"l": jnp.zeros(k if self.side == "output" else d, jnp.float32)}

    def weight(self, kernel: Float[Array, "d k"], factors: Factors) -> Float[Array, "d k"]:
        """`W0` with its columns scaled, or its rows."""
        scale = 1 + factors["l"]
        scale = scale if self.side == "output" else scale[:, None]
        return (kernel.astype(wide(kernel, scale)) * scale).astype(kernel.dtype)

    def forward(
        self, layer: Layer, x: Float[Array, "*batch d"], factors: Factors, key: jax.Array | None = None
    ) -> Float[Array, "*batch k"]:
        """The layer with its activations scaled; no kernel is formed."""
        if self.side == "input":
            return layer.dense((x * (1 + factors["l"])).astype(x.dtype), layer.kernel, layer.bias)
        y = layer.dense(x, layer.kernel, layer.bias)
        return (y * (1 + factors["l"])).astype(y.dtype)

    def cost(self, n: int, d: int, k: int, leaf: str = "kernel") -> Cost:
        """One product for each activation; its gradients are two products and a sum."""
        scaled = n * (k if self.side == "output" else d)
        return Cost(scaled, 3 * scaled)

    def merge(
        self, kernel: Float[Array, "d k"], bias: Float[Array, " k"] | None, factors: Factors
    ) -> tuple[Float[Array, "d k"], Float[Array, " k"] | None]:
        """The scaled kernel. If outputs are scaled, the bias is scaled too."""
        if bias is not None and self.side == "output":
            bias = (bias.astype(wide(bias)) * (1 + factors["l"])).astype(bias.dtype)
        return self.weight(kernel, factors), bias
