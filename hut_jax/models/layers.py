"""What the models share: names of shapes, activations, norms, attention over several heads, and recomputation."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError, nearest
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

ATTENTION = ("xla", "cudnn")

REMAT: dict[str, Callable | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What the backward pass computes again of each layer: nothing, all but its products with kernels, or all of it."""

# In bf16 the products are still summed and returned in fp32; rounding logits to bf16 would make ties.
fp32_dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


def layer_norm(epsilon: float, dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """A layer norm with its statistics in fp32.

    The variance is taken from the deviations: E[x²] - E[x]² loses digits where a model has its large features.
    """
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def recomputed(layer: Any, remat: str, *, deterministic: int, scanned: bool) -> Any:
    """The class of layers, of which the backward pass computes again what `REMAT` says.

    Args:
        layer: a Linen class.
        remat: one of `REMAT`.
        deterministic: which argument of a call is `deterministic`, counting self.
        scanned: whether it is for `nn.scan`, in which XLA cannot merge the two computations anyway.

    Raises:
        UserError: `remat` is none of these.
    """
    if remat not in REMAT:
        raise UserError(f"remat is {remat!r}; {nearest(str(remat), REMAT)}")
    policy = REMAT[remat]
    if policy is None:
        return layer
    return nn.remat(layer, policy=policy, static_argnums=(deterministic,), prevent_cse=not scanned)


def check_attention(attention: str, dtype: Any, head_width: int) -> None:
    """Whether this machine and model can have the attention asked for.

    Raises:
        UserError: they cannot, or there is no such attention.
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
        why = f"wants compute capability 8.0 (Ampere) or later, and {jax.devices()[0].device_kind} has {capability[0]}"
    elif jnp.dtype(dtype) != jnp.bfloat16:
        why = f"computes in bfloat16, and the model in {jnp.dtype(dtype).name}"
    elif head_width > 128 or head_width % 8:
        why = f"takes heads of 8, 16, 24, ... 128 numbers, and the model's have {head_width}"
    if why:
        raise UserError(f"attention 'cudnn' {why}; 'xla' has no such limits")


def attend(
    query: Heads,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "#batch 1 #length keys"],
    scale: Any,
    drop: Dropout,
    attention: str = "xla",
) -> Heads:
    """Attention over several heads; its statistics are in fp32.

    Args:
        query: of the tokens that look.
        key: of the tokens looked at.
        value: of the same.
        mask: True where a query may look at a key. A query that may look at none gets the mean of the values.
        scale: what the query-key products are multiplied with: a number, or an array of one.
        drop: for the attention weights.
        attention: "xla", or "cudnn": fused, so that no weights are written to memory, and none are dropped. It is
            for NVIDIA GPUs (`check_attention`), and for as many keys as queries.
    """
    if attention == "cudnn":
        return _fused_attention(query, key, value, mask, scale)
    if drop.deterministic or drop.rate == 0:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    return plain_attention(query, key, value, mask, scale, drop)


def _fused_attention(query: Heads, key: Heads, value: Heads, mask: Any, scale: Any) -> Heads:
    """cuDNN's, which wants a mask for each query, an even number of them in training, and a scale known beforehand."""
    if not isinstance(scale, float):  # a layer's of a scan
        query, scale = (query * scale).astype(query.dtype), 1.0
    length = query.shape[1]
    mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, length))
    if length % 2:
        more = ((0, 0), (0, 1), (0, 0), (0, 0))
        query, key, value = (jnp.pad(each, more) for each in (query, key, value))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
    y = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale, implementation="cudnn")
    return y[:, :length]


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
