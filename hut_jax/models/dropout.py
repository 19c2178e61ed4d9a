"""Dropout (Srivastava et al., JMLR 15, 2014) that draws 16 random bits a number.

Flax's draws 32, for which JAX's generator computes 64, and on a CPU that is an eighth of a training step. The rate is
rounded to a multiple of 2^-16, 0.1 to 0.1000061, and what is kept grows by the rate so rounded.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Bool, Float

_LEVELS = 2**16


class Dropout(nn.Module):
    """As `flax.linen.Dropout`: each number is zero with probability `rate`, the others grow to make up for it.

    Attributes:
        rate: at least 0 and below 1.
        deterministic: whether nothing is dropped; here or in the call.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."], deterministic: bool | None = None) -> Float[Array, "..."]:
        """Drops, by the rng "dropout"."""
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        dropped = min(round(self.rate * _LEVELS), _LEVELS - 1)
        if deterministic or dropped == 0:
            return x
        return jnp.where(kept(self.make_rng("dropout"), dropped, x.shape), x * (_LEVELS / (_LEVELS - dropped)), 0)


def kept(key: jax.Array, dropped: int, shape: Sequence[int]) -> Bool[Array, "..."]:
    """Which numbers of an array stay; the same on any devices, however the array lies on them.

    Each call of threefry (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives four draws, one
    for each quarter of a row. What it counts is rows and places in a quarter: devices that share out rows need nothing
    of each other. The calls are laid out flat but for the first axis, by which batches are shared out: over rows as
    short as a quarter of a row of attention weights LLVM unrolls the generator, and takes seconds to compile it.

    Args:
        key: of a JAX generator.
        dropped: of 65,536 how many to drop on average, below that.
        shape: of the array; its last axis is a row.
    """
    rows, row = tuple(shape[:-1]), shape[-1]
    counted = (*rows, -(-row // 4))
    number = jnp.broadcast_to(jax.lax.iota(jnp.uint32, math.prod(rows)).reshape(*rows, 1), counted)
    place = jax.lax.broadcasted_iota(jnp.uint32, counted, len(rows))
    first, second = jax.random.key_data(key)[:2]  # all of a threefry key; half of an rbg one, and a threefry key itself
    flat = (counted[0], math.prod(counted[1:]))
    words = threefry2x32_p.bind(first, second, number.reshape(flat), place.reshape(flat))
    draws = [half.reshape(counted) for word in words for half in (word & 0xFFFF, word >> 16)]
    return jnp.concatenate([draw >= dropped for draw in draws], axis=-1)[..., :row]
