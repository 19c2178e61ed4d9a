"""Attention over several heads: the layer, and the computation by XLA or by cuDNN's fused kernel."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.products import einsum
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
        causal: whether the mask lets no token attend to later ones.
    """

    heads: int
    dropout: float
    std: float
    out_std: float
    dtype: Any
    attention: str
    causal: bool = False

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
        y, cache = attend_with_cache(
            *heads, mask, scale, drop, self.attention, causal=self.causal, cache=cache, index=index
        )
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
    causal: bool,
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
        causal: whether the mask lets no token attend to later ones.
        cache: of this layer.
        index: the number of tokens in the cache.
        cap: as `attend` takes it.
    """
    if isinstance(cache, LayerBeams):
        return cache.attend(query, key, value, mask, scale, cap)
    if cache is None:
        return attend(query, key, value, mask, scale, drop, attention, cap, causal=causal), None
    key = jax.lax.dynamic_update_slice_in_dim(cache[0], key, index, axis=1)
    value = jax.lax.dynamic_update_slice_in_dim(cache[1], value, index, axis=1)
    return attend(query, key, value, mask, scale, drop, "xla", cap), (key, value)


def attend(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "#batch 1 #length keys"],
    scale: Any,
    drop: Dropout,
    attention: str = "xla",
    cap: float | None = None,
    *,
    causal: bool = False,
) -> Heads:
    """Attention over several heads; its statistics are in fp32.

    Args:
        query: of the tokens that attend.
        key: of the tokens attended to. If they have fewer heads, each head serves a group of the queries', in order.
        value: of the same tokens.
        mask: True where a query may attend to a key. A query that may attend to none gets a mean of values: of all, or
            of those up to the end of its block.
        scale: the factor of the query-key products: a number, or an array of one.
        drop: for the attention weights.
        attention: "xla" or "cudnn". "cudnn" is fused: attention weights are not written to memory, and not dropped.
            It needs an NVIDIA GPU (`check_attention`), and as many keys as queries.
        cap: the products x, times the scale, become `cap * tanh(x / cap)`. "cudnn" has none.
        causal: whether the queries are of the same tokens as the keys, and the mask, with a row for each query, lets
            none attend to later ones.
    """
    if attention == "cudnn":
        return _fused_attention(query, key, value, mask, scale)
    dropping = not drop.deterministic and drop.rate > 0
    if jax.default_backend() == "cpu":
        # Dropout draws for all weights in one call, so that it draws the same on every device.
        blocks = _causal_blocks(query.shape[1]) if causal and not dropping else 1
        return _attention_by_blocks(query, key, value, mask, scale, drop, cap, blocks)
    if cap is None and not dropping:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    return plain_attention(query, key, value, mask, scale, drop, cap)


def _causal_blocks(length: int) -> int:
    """The number of blocks of queries on a CPU. With more of them more products are skipped, and each is smaller."""
    return max(1, min(4, length // 32))


def _attention_by_blocks(
    query: Heads, key: Keys, value: Keys, mask: Any, scale: Any, drop: Dropout, cap: float | None, blocks: int
) -> Heads:
    """Attention in which each block of queries meets only the keys up to its own end."""
    if blocks == 1:
        return plain_attention(query, key, value, mask, scale, drop, cap)
    ends = [query.shape[1] * n // blocks for n in range(blocks + 1)]
    # A CPU slices, joins and adds bf16 slowly.
    dtype, wide = query.dtype, jnp.promote_types(query.dtype, jnp.float32)
    query, key, value = (each.astype(wide) for each in (query, key, value))

    def block(start: int, end: int) -> Heads:
        q, k, v = (each.astype(dtype) for each in (query[:, start:end], key[:, :end], value[:, :end]))
        return plain_attention(q, k, v, mask[:, :, start:end, :end], scale, drop, cap).astype(wide)

    return jnp.concatenate([block(start, end) for start, end in itertools.pairwise(ends)], axis=1).astype(dtype)


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
    """What `jax.nn.dot_product_attention` computes, with the cap, and `drop` applied to the attention weights.

    The queries of a group of heads become rows of one matrix, since they meet the same keys. On a CPU this is faster
    than JAX's own function, in which XLA copies the attention weights into another layout (`benchmarks.attention`).
    """
    batch, length, heads, width = query.shape
    key_heads, keys = key.shape[2], key.shape[1]
    group = heads // key_heads
    query = query.reshape(batch, length, key_heads, group, width).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, key_heads, group * length, width)
    scores = einsum("bhqd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    mask = jnp.broadcast_to(mask[:, :, None], (*mask.shape[:2], group, length, keys))
    scores = jnp.where(mask.reshape(*mask.shape[:2], group * length, keys), scores, jnp.finfo(jnp.float32).min)
    y = einsum("bhqk,bkhd->bhqd", drop(nn.softmax(scores).astype(value.dtype)), value)
    y = y.reshape(batch, key_heads, group, length, width).transpose(0, 3, 1, 2, 4)
    return y.reshape(batch, length, heads, width)
