"""The parts of a decoder: its norm, attention in groups of heads, gated feed-forward network, and one layer."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.models.activations import activation
from hut_jax.models.attention import LayerCache, attend_with_cache
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.rope import rotated
from hut_jax.models.dropout import Dropout
from hut_jax.models.layers import dense
from hut_jax.models.shapes import Hidden
from hut_jax.parallel.activations import split_batch


class View(NamedTuple):
    """What a kind of layers sees of the tokens' order.

    Attributes:
        mask: True where a query may attend to a key; for beams from `BeamCache.mask`.
        cos: the cosine of each token's angles.
        sin: their sine.
    """

    mask: Any
    cos: Float[Array, "*kinds batch length half"]
    sin: Float[Array, "*kinds batch length half"]


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x²) + epsilon) ⊙ (offset + scale)` (Zhang and Sennrich, arXiv 1910.07467, 2019), in fp32.

    Attributes:
        epsilon: keeps the divisor above 0.
        offset: 1 for Gemma, whose files hold the deviations from 1.
        dtype: of the output.
    """

    epsilon: float
    offset: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Normalise over the last axis."""
        scale = self.param("scale", nn.initializers.constant(1 - self.offset), x.shape[-1:])
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.epsilon)
        return (y * (self.offset + scale.astype(jnp.float32))).astype(self.dtype)


def norm(config: DecoderConfig, dtype: Any, name: str | None = None) -> RMSNorm:
    """A norm as the config says."""
    return RMSNorm(config.rms_norm_eps, float(config.traits.gemma), dtype, name=name)


class Attention(nn.Module):
    """Self-attention, in which a group of query heads shares a head of keys and values (arXiv 2305.13245, 2023)."""

    config: DecoderConfig
    dtype: Any
    attention: str

    @nn.compact
    def __call__(
        self, x: Hidden, view: View, deterministic: bool, cache: LayerCache | None, index: Any
    ) -> tuple[Hidden, LayerCache | None]:
        """The output, and the cache with the new keys and values; see `models.attention.Attention`."""
        c = self.config

        def split(name: str, heads: int) -> Float[Array, "batch length heads head_width"]:
            y = dense(heads * c.head_dim, c.initializer_range, self.dtype, name, use_bias=c.has_bias(name))(x)
            return split_batch(y.reshape(*x.shape[:-1], heads, c.head_dim), None, "tensor", None)

        query, key, value = split("query", c.heads), split("key", c.key_heads), split("value", c.key_heads)
        if c.traits.query_key_norm:
            query, key = norm(c, self.dtype, "query_norm")(query), norm(c, self.dtype, "key_norm")(key)
        query, key = rotated(query, view.cos, view.sin), rotated(key, view.cos, view.sin)
        drop = Dropout(c.attention_dropout, deterministic=deterministic)
        y, cache = attend_with_cache(
            query,
            key,
            value,
            view.mask,
            c.attention_scale,
            drop,
            self.attention,
            causal=True,
            cache=cache,
            index=index,
            cap=c.attn_logit_softcapping,
        )
        out = dense(x.shape[-1], c.initializer_range, self.dtype, "out", use_bias=c.has_bias("out"))
        return out(y.reshape(*x.shape[:-1], c.heads * c.head_dim)), cache


class GatedMLP(nn.Module):
    """The feed-forward network with a gate (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202, 2020)."""

    config: DecoderConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        """Map width -> intermediate_size -> width."""
        c = self.config

        def layer(name: str, features: int) -> nn.Dense:
            return dense(features, c.initializer_range, self.dtype, name, use_bias=c.has_bias(name))

        gate = split_batch(layer("gate", c.intermediate_size)(x), None, "tensor")
        up = split_batch(layer("up", c.intermediate_size)(x), None, "tensor")
        return layer("down", x.shape[-1])(activation(c.hidden_act)(gate) * up)


class Layer(nn.Module):
    """One pre-norm block. Gemma's has a norm after each sublayer, too."""

    config: DecoderConfig
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: Hidden, cache: LayerCache | None, kind: Any, view: View, index: Any, deterministic: bool):
        """Returns `(x, cache)`, as `nn.scan` expects: what the next layer gets, and what is stacked.

        Args:
            x: the tokens.
            cache: of this layer.
            kind: which of the stacked views is the layer's; None: `view` is its own.
            view: what the layer sees of the tokens' order.
            index: the number of tokens in the cache.
            deterministic: False turns dropout on.
        """
        c = self.config
        if kind is not None:
            view = jax.tree.map(lambda leaf: leaf[kind], view)
        drop = Dropout(c.resid_pdrop, deterministic=deterministic)

        def add(y: Hidden, name: str) -> Hidden:
            y = norm(c, self.dtype, name)(y) if c.traits.gemma else y
            return split_batch(x + drop(y), None, None)

        attention = Attention(c, self.dtype, self.attention, name="attention")
        y, cache = attention(norm(c, self.dtype, "attention_norm")(x), view, deterministic, cache, index)
        x = add(y, "attention_out_norm")
        y = GatedMLP(c, self.dtype, name="mlp")(norm(c, self.dtype, "mlp_norm")(x))
        return add(y, "mlp_out_norm"), cache
