"""Thin matrices whose product has a kernel's shape: draw them, multiply them, join several pairs into one."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.transforms.base import Factors, wide


def thin(key: jax.Array, d: int, rank: int) -> Float[Array, "d r"]:
    """A random `[d, r]` in fp32, uniform within 1 / sqrt(d). The entries of `x @ A` are then about as large as x's."""
    bound = 1 / math.sqrt(d)
    return jax.random.uniform(key, (d, rank), jnp.float32, -bound, bound)


def thin_pair(key: jax.Array, shape: Sequence[int], rank: int) -> Factors:
    """`a: [d, r]`, random, and `b: [r, k]`, zeros. Their product is zero, but the gradient of `b` is not."""
    d, k = shape
    return {"a": thin(key, d, rank), "b": jnp.zeros((rank, k), jnp.float32)}


def product(a: Float[Array, "d r"], b: Float[Array, "r k"]) -> Float[Array, "d k"]:
    """`A B` in fp32 (or wider), at full precision, which accelerators do not use by default."""
    dtype = wide(a, b)
    return jnp.matmul(a.astype(dtype), b.astype(dtype), precision="highest")


def concatenate(pairs: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """One pair whose product is the weighted sum of all pairs' products. Its rank is the sum of their ranks."""
    return {
        "a": jnp.concatenate([pair["a"] for pair in pairs], axis=-1),
        "b": jnp.concatenate([w * pair["b"] for w, pair in zip(weights, pairs, strict=True)], axis=-2),
    }
