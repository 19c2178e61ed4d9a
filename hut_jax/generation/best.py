"""The best few of very many numbers, such as a vocabulary's logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GROUP = 128


def best_of_many(scores: Float[Array, "*rows n"], k: int) -> tuple[Float[Array, "*rows k"], Int[Array, "*rows k"]]:
    """What `jax.lax.top_k` gives, but that among minus infinities it may be other ones.

    No number is among the best k whose group of neighbours has a largest one that is not among the k largest of the
    groups. So all but k groups are only read once, for that largest one; XLA's `top_k` of a CPU compares one number
    after the other on one core, and that of a GPU sorts them all from some k on.

    Args:
        scores: without NaN.
        k: how many; at most `n`.

    Returns:
        The best, in descending order, of equal ones the first first; and their places.
    """
    n = scores.shape[-1]
    if n <= GROUP * k:
        return jax.lax.top_k(scores, k)
    room = [(0, 0)] * (scores.ndim - 1) + [(0, -n % GROUP)]
    groups = jnp.pad(scores, room, constant_values=-jnp.inf).reshape(*scores.shape[:-1], -1, GROUP)
    _, chosen = jax.lax.top_k(groups.max(axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # so that of equal numbers the first comes first
    places = (chosen[..., None] * GROUP + jnp.arange(GROUP)).reshape(*scores.shape[:-1], -1)
    # Not from the groups: only for their largest they are never written to memory.
    candidates = jnp.take_along_axis(scores, places, axis=-1, mode="fill", fill_value=-jnp.inf)
    best, kept = jax.lax.top_k(candidates, k)
    return best, jnp.take_along_axis(places, kept, axis=-1)
