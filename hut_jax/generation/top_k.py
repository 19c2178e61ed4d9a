"""The k largest of very many numbers, such as a vocabulary's logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GROUP = 128


def grouped_top_k(scores: Float[Array, "*rows n"], k: int) -> tuple[Float[Array, "*rows k"], Int[Array, "*rows k"]]:
    """What `jax.lax.top_k` gives, which compares one number after the other, and on a CPU on one core.

    The k largest lie in the k groups of neighbours with the largest maxima; all other groups are read once, for their
    maximum. Of equal numbers the first come first, and are in the first of the groups with equal maxima.

    Args:
        scores: without NaN.
        k: how many; at most `n`.

    Returns:
        The k largest in descending order, and their places.
    """
    n = scores.shape[-1]
    if n <= GROUP * k:
        return jax.lax.top_k(scores, k)
    room = [(0, 0)] * (scores.ndim - 1) + [(0, -n % GROUP)]
    groups = jnp.pad(scores, room, constant_values=-jnp.inf).reshape(*scores.shape[:-1], -1, GROUP)
    _, chosen = jax.lax.top_k(groups.max(axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # so that of equal numbers the first come first
    places = (chosen[..., None] * GROUP + jnp.arange(GROUP)).reshape(*scores.shape[:-1], -1)
    # From the scores and not from the groups: XLA writes no groups to memory where only their maxima are wanted.
    candidates = jnp.take_along_axis(scores, places, axis=-1, mode="fill", fill_value=-jnp.inf)
    largest, kept = jax.lax.top_k(candidates, k)
    return largest, jnp.take_along_axis(places, kept, axis=-1)
