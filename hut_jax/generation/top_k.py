"""The k largest of very many numbers, such as the logits of a vocabulary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

GROUP = 128


def grouped_top_k(scores: Float[Array, "*rows n"], k: int) -> tuple[Float[Array, "*rows k"], Int[Array, "*rows k"]]:
    """Compute the same as `jax.lax.top_k`, which uses only one core of a CPU. benchmarks/top_k.py compares the two.

    The k largest numbers lie in the k groups of neighbours with the largest maxima. All other groups are read only
    once, for their maxima. Of equal numbers, the one with the smaller index comes first. Of groups with equal maxima,
    the one with the smaller index is chosen first.

    Args:
        scores: without NaN.
        k: at most `n`.

    Returns:
        The k largest in descending order, and their indices.
    """
    n = scores.shape[-1]
    if n <= GROUP * k:
        return jax.lax.top_k(scores, k)
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, -n % GROUP)]
    groups = jnp.pad(scores, padding, constant_values=-jnp.inf).reshape(*scores.shape[:-1], -1, GROUP)
    _, chosen = jax.lax.top_k(groups.max(axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # so that equal numbers keep their order
    indices = (chosen[..., None] * GROUP + jnp.arange(GROUP)).reshape(*scores.shape[:-1], -1)
    # Taken from the scores, so that XLA needs only the maxima of the groups and does not write the groups to memory.
    candidates = jnp.take_along_axis(scores, indices, axis=-1, mode="fill", fill_value=-jnp.inf)
    largest, kept = jax.lax.top_k(candidates, k)
    return largest, jnp.take_along_axis(indices, kept, axis=-1)
