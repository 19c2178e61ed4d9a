"""Attention over several heads: the layer, and the computation by XLA or by cuDNN's fused kernel."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hut_jax.core.errors import UserError, nearest
from hut_jax.models.beam_cache import LayerBeams
from hut_jax.models.dropout import Dropout
from hut_jax.models.layers import dense
from hut_jax.models.shapes import Heads, Hidden, Keys, PerToken
from hut_jax.parallel.activations import split_batch

ATTENTION = ("xla", "cudnn")

LayerCache = tuple[Keys, Keys] | LayerBeams
"""One layer's cached keys and values, or those of several beams."""


class Attention(nn.Module):
    """Self-attention over several heads; with a cache, over the tokens in it too.

    Attributes:
        heads: the number of heads.
        dropout: the dropout probability of the attention weights.
        std: the initial standard deviation of the kernels of query, key and value.
        out_std: the initial standard deviation of the output's kernel.
        dtype: of the computation.
        attention: one of `ATTENTION`, for calls without a cache.
    """

    heads: int
    dropout: float
    std: float
    out_std: float
    dtype: Any
    attention: str

    @nn.compact
    def __call__(
        self, x: Hidden, mask: Any, scale: Any, deterministic: bool, cache: LayerCache | None = None, index: Any = None
    ) -> tuple[Hidden, LayerCache | None]:
        """The output, and the cache with the new keys and values.

        Args:
            x: the tokens.
            mask: True where a query may attend to a key; for beams from `BeamCache.mask`.
            scale: the factor of the query-key products.
            deterministic: False turns dropout on.
            cache: of this layer.
            index: the number of tokens in the cache.
        """
        width = x.shape[-1]

        def split(name: str) -> Heads:
            y = dense(width, self.std, self.dtype, name)(x)
            return split_batch(y.reshape(*x.shape[:-1], self.heads, width // self.heads), None, "tensor", None)

        drop = Dropout(self.dropout, deterministic=deterministic)
        heads = split("query"), split("key"), split("value")
        y, cache = attend_with_cache(*heads, mask, scale, drop, self.attention, cache=cache, index=index)
        return dense(width, self.out_std, self.dtype, "out")(y.reshape(x.shape)), cache


def check_attention(attention: str, dtype: Any, head_width: int) -> None:
    """Check that this machine and model support the requested attention.

    Raises:
        UserError: they do not, or there is no such attention.
    """
    if attention not in ATTENTION:
        raise UserError(f"attention is {attention!r}; {nearest(str(attention), ATTENTION)}")
    if attention == "xla":
        return
    why = ""
    capability = re.fullmatch(r"(\d+)\.\d+", getattr(jax.devices()[0], "compute_capability", ""))  # AMD's has letters
    if capability is None:
        why = f"runs on NVIDIA GPUs, and JAX runs on {jax.devices()[0].device_kind} here"
    elif int(capability[1]) < 8:
        why = f"needs compute capability 8.0 (Ampere) or later, and {jax.devices()[0].device_kind} has {capability[0]}"
    elif jnp.dtype(dtype) != jnp.bfloat16:
        why = f"computes in bfloat16, and the model in {jnp.dtype(dtype).name}"
    elif head_width > 128 or head_width % 8:
        why = f"takes heads of width 8, 16, 24, ... 128, and the model's have width {head_width}"
    if why:
        raise UserError(f"attention 'cudnn' {why}; 'xla' has no such limits")


def attend_with_cache(
    query: Heads,
    key: Float[Array, "batch length key_heads head_width"],
    value: Float[Array, "batch length key_heads head_width"],
    mask: Any,
    scale: Any,
    drop: Dropout,
    attention: str,
    *,
    cache: LayerCache | None,
    index: Any,
    cap: float | None = None,
) -> tuple[Heads, LayerCache | None]:
    """Attention to these tokens and to those in the cache; the output, and the cache with the new keys and values.

    Args:
        query: of the new tokens.
        key: of the new tokens.
        value: of the new tokens.
        mask: as `attend` takes it; for beams from `BeamCache.mask`.
        scale: the factor of the query-key products.
        drop: for the attention weights; beams have no dropout.
        attention: one of `ATTENTION`, for calls without a cache.
        cache: of this layer.
        index: the number of tokens in the cache.
        cap: as `attend` takes it.
    """
    if isinstance(cache, LayerBeams):
        return cache.attend(query, key, value, mask, scale, cap)
    if cache is not None:
        key = jax.lax.dynamic_update_slice_in_dim(cache[0], key, index, axis=1)
        value = jax.lax.dynamic_update_slice_in_dim(cache[1], value, index, axis=1)
        cache = key, value
    return attend(query, key, value, mask, scale, drop, attention if cache is None else "xla", cap), cache


def attend(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "#batch 1 #length keys"],
    scale: Any,
    drop: Dropout,
    attention: str = "xla",
    cap: float | None = None,
) -> Heads:
    """Attention over several heads; its statistics are in fp32.

    Args:
        query: of the tokens that attend.
        key: of the tokens attended to. If they have fewer heads, each head serves a group of the queries', in order.
        value: of the same tokens.
        mask: True where a query may attend to a key. A query that may attend to none gets the mean of the values.
        scale: the factor of the query-key products: a number, or an array of one.
        drop: for the attention weights.
        attention: "xla" or "cudnn". "cudnn" is fused: attention weights are not written to memory, and not dropped.
            It needs an NVIDIA GPU (`check_attention`), and as many keys as queries.
        cap: the products x, times the scale, become `cap * tanh(x / cap)`. "cudnn" has none.
    """
    if attention == "cudnn":
        return _fused_attention(query, key, value, mask, scale)
    if cap is None and (drop.deterministic or drop.rate == 0):
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    return plain_attention(query, key, value, mask, scale, drop, cap)


def _fused_attention(query: Heads, key: Keys, value: Keys, mask: Any, scale: Any) -> Heads:
    """cuDNN's attention. It needs a mask for each query, a static scale, and in training an even number of queries."""
    if not isinstance(scale, float):  # within a scan each layer's scale is traced
        query, scale = (query * scale).astype(query.dtype), 1.0
    length = query.shape[1]
    mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, length))
    if length % 2:
        more = ((0, 0), (0, 1), (0, 0), (0, 0))
        query, key, value = (jnp.pad(each, more) for each in (query, key, value))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
    y = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale, implementation="cudnn")
    return y[:, :length]


def same_segment(segment_ids: PerToken) -> Bool[Array, "#batch 1 length length"]:
    """A mask that is True where query and key have the same segment number."""
    ids = jnp.asarray(segment_ids)
    return (ids[:, :, None] == ids[:, None, :])[:, None]


def plain_attention(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "#batch 1 #length keys"],
    scale: float | Float[Array, ""],
    drop: Callable[[Array], Array] = lambda weights: weights,
    cap: float | None = None,
) -> Heads:
    """What `jax.nn.dot_product_attention` computes, with the cap, and `drop` applied to the attention weights."""
    group = query.shape[2] // key.shape[2]
    if group > 1:
        key, value = jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    weights = nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min)).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", drop(weights), value)
