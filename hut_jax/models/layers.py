"""What the models share: names of shapes, activations, norms and attention over several heads."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hut_jax.models.dropout import Dropout

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": nn.tanh,
}

HostOrDevice = Array | np.ndarray
Tokens = Int[HostOrDevice, "batch length"]
Mask = Bool[HostOrDevice, "batch keys"] | Int[HostOrDevice, "batch keys"]
Hidden = Float[Array, "batch length width"]
Heads = Float[Array, "batch length heads head_width"]
Keys = Float[Array, "batch keys heads head_width"]

# In bf16 the products are still summed and returned in fp32; rounding logits to bf16 would make ties.
fp32_dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


def layer_norm(epsilon: float, dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """A layer norm with its statistics in fp32.

    The variance is taken from the deviations: E[x²] - E[x]² loses digits where a model has its large features.
    """
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def attend(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "#batch 1 #length keys"],
    scale: Any,
    drop: Dropout,
) -> Heads:
    """Attention over several heads; its statistics are in fp32.

    Args:
        query: of the tokens that look.
        key: of the tokens looked at.
        value: of the same.
        mask: True where a query may look at a key. A query that may look at none gets the mean of the values.
        scale: what the query-key products are multiplied with: a number, or an array of one.
        drop: for the attention weights.
    """
    if drop.deterministic or drop.rate == 0:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    return plain_attention(query, key, value, mask, scale, drop)


def plain_attention(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "#batch 1 #length keys"],
    scale: float | Float[Array, ""],
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Heads:
    """What `jax.nn.dot_product_attention` computes, with `drop` applied to the attention weights."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    weights = nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min)).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", drop(weights), value)
