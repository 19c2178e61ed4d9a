"""A tiny Llama of Flax's own NNX layers, written as people write them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WIDTH, HEADS, SIZE, HIDDEN, VOCABULARY = 16, 2, 8, 32, 24


def rotated(x):
    """Rotary positions, on `[batch, length, heads, size]`."""
    angles = np.arange(x.shape[1])[:, None] / 100.0 ** (np.arange(0, SIZE, 2) / SIZE)
    cos, sin = (np.float32(f(angles))[None, :, None] for f in (np.cos, np.sin))
    even, odd = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([even * cos - odd * sin, odd * cos + even * sin], axis=-1)


def attended(q, k, v):
    """Causal attention."""
    mask = np.tril(np.ones((q.shape[1], q.shape[1]), bool))
    scores = jnp.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) / np.sqrt(SIZE)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask, scores, -1e9)), v)


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.q_proj, self.k_proj, self.v_proj = (
            nnx.LinearGeneral(WIDTH, (HEADS, SIZE), use_bias=False, rngs=rngs) for _ in range(3)
        )
        self.o_proj = nnx.LinearGeneral((HEADS, SIZE), WIDTH, axis=(-2, -1), use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.o_proj(attended(self.q_proj(x), self.k_proj(x), self.v_proj(x)))


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.gate_proj = nnx.Linear(WIDTH, HIDDEN, use_bias=False, rngs=rngs)
        self.up_proj = nnx.Linear(WIDTH, HIDDEN, use_bias=False, rngs=rngs)
        self.down_proj = nnx.Linear(HIDDEN, WIDTH, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.input_norm, self.post_norm = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.self_attn, self.mlp = Attention(rngs), MLP(rngs)

    def __call__(self, x):
        x = x + self.self_attn(self.input_norm(x))
        return x + self.mlp(self.post_norm(x))


class Llama(nnx.Module):
    """Blocks one after another, or stacked and scanned; the head is the embedding."""

    def __init__(self, rngs, *, layers=2, scanned=False):
        self.embed_tokens = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        if scanned:
            stacked = nnx.vmap(Block, in_axes=(0,), out_axes=0)
            self.layers = nnx.split_rngs(splits=layers)(stacked)(rngs)
        else:
            self.layers = nnx.List([Block(rngs) for _ in range(layers)])

    def __call__(self, tokens):
        x = self.embed_tokens(tokens)
        if isinstance(self.layers, nnx.List):
            for block in self.layers:
                x = block(x)
        else:
            x = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)
        return self.embed_tokens.attend(self.norm(x))
