"""Dropout (Srivastava et al., JMLR 15, 2014) that draws 16 random bits for each element.

Flax's dropout draws 32 bits, for which JAX's generator computes 64. On a CPU that takes an eighth of a training step.
The probability is rounded to a multiple of 2^-16 (0.1 to 0.1000061). Kept elements are scaled by the rounded value.
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
    """Dropout as in `flax.linen.Dropout`: elements are zero with probability `rate`, and the others are scaled up.

    Attributes:
        rate: the probability, from 0 to 1.
        deterministic: True drops nothing. It is given either here or in the call.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."], deterministic: bool | None = None) -> Float[Array, "..."]:
        """Apply dropout with the rng "dropout"."""
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        dropped = min(round(self.rate * _LEVELS), _LEVELS - 1)
        if deterministic or dropped == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        return jnp.where(kept(self.make_rng("dropout"), dropped, x.shape), x * (_LEVELS / (_LEVELS - dropped)), 0)


def kept(key: jax.Array, dropped: int, shape: Sequence[int]) -> Bool[Array, "..."]:
    """Which elements of an array are kept. The result does not depend on the devices or on how they split the array.

    Each call of threefry (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) gives four draws, one
    for each quarter of a row. Its counters are the row's number and the index within the quarter. Devices that split
    the rows therefore do not communicate.

    The counters are computed as a matrix. The first axis is kept, since batches are split along it. All other axes are
    flattened into one, since short rows compile slowly. For example, LLVM takes seconds to unroll the generator for a
    quarter of a row of attention weights.

    Args:
        key: a key of a JAX generator.
        dropped: the number of elements to drop out of 65,536 on average; below 65,536.
        shape: of the array; its last axis is a row.
    """
    rows, row = tuple(shape[:-1]), shape[-1]
    counted = (*rows, -(-row // 4))
    number = jnp.broadcast_to(jax.lax.iota(jnp.uint32, math.prod(rows)).reshape(*rows, 1), counted)
    index = jax.lax.broadcasted_iota(jnp.uint32, counted, len(rows))
    first, second = jax.random.key_data(key)[:2]  # all of a threefry key; half of an rbg key
    flat = (counted[0], math.prod(counted[1:]))
    words = threefry2x32_p.bind(first, second, number.reshape(flat), index.reshape(flat))
    draws = [half.reshape(counted) for word in words for half in (word & 0xFFFF, word >> 16)]
    return jnp.concatenate([draw >= dropped for draw in draws], axis=-1)[..., :row]
