"""The cross-entropy over a vocabulary, in chunks: all logits at once would be the largest array of a training step."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from hut_jax.parallel.activations import batch_parts, split_batch

CHUNK = 256
"""Positions in a chunk, for each part of a batch that is split over devices. With fewer positions the products with the
vocabulary's table take longer: 64 positions take a fifth longer on a CPU."""


def cross_entropy(
    logits: Float[Array, "n vocab"], labels: Int[Array, " n"], label_smoothing: float = 0.0
) -> Float[Array, " n"]:
    """Cross-entropy in nats against `(1 - s) * one_hot(label) + s / vocab`.

    The label smoothing is that of Szegedy et al., arXiv 1512.00567, section 7.
    """
    logits = logits.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    if label_smoothing == 0:
        return normalizer - picked
    return normalizer - (1 - label_smoothing) * picked - label_smoothing * logits.mean(axis=-1)


def prediction_loss(
    apply: Callable[..., Array],
    input_ids: Int[Array, "batch length"],
    attention_mask: Array | None,
    *,
    positions: Int[Array, " n"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    label_smoothing: float = 0.0,
    arrays: Mapping[str, Array] = MappingProxyType({}),
    chunk: int = CHUNK,
    rngs: Mapping[str, Array] | None = None,
    **kwargs: Any,
) -> Float[Array, ""]:
    """The weighted sum of the cross-entropies, in nats, of a model's predictions at some positions.

    If there is more than one chunk, the model's method "hidden" is called once, and "logits" once for each chunk.

    Args:
        apply: the model.
        input_ids: token ids.
        attention_mask: as the model takes it.
        positions: indices into the flattened `batch * length` positions.
        labels: the correct token at each position.
        weights: the weight of each position.
        label_smoothing: the share of probability spread over the vocabulary.
        arrays: further arguments of the model that have an entry for each token, such as `position_ids`.
        chunk: the number of positions whose logits exist at the same time, for each part of a split batch.
        rngs: the model's.
        **kwargs: the model's other arguments, such as `deterministic`.
    """
    own: dict[str, Any] = {} if rngs is None else {"rngs": rngs}
    given = partial(apply, input_ids, attention_mask, **arrays, **own, **kwargs)
    parts = batch_parts()
    chunks = -(-len(positions) // (parts * chunk))
    if chunks <= 1:
        return jnp.sum(cross_entropy(given(logits_at=positions), labels, label_smoothing) * weights)

    hidden = given(method="hidden")
    hidden = hidden.reshape(-1, hidden.shape[-1])[positions]

    def logits(part: Array, index: Array) -> Array:
        # Each chunk has its own key: with one key all chunks would drop the same elements.
        keys = {} if rngs is None else {"rngs": {name: jax.random.fold_in(key, index) for name, key in rngs.items()}}
        return apply(part, method="logits", **keys, **kwargs)

    def total(logits: Callable, hidden: Array, labels: Array, weights: Array, index: Array) -> Array:
        return jnp.sum(cross_entropy(logits(split_batch(hidden, None), index), labels, label_smoothing) * weights)

    hidden, labels, weights = (_cut(leaf, chunks, parts) for leaf in (hidden, labels, weights))
    return _sum_over_chunks(total, logits, hidden, (labels, weights, jnp.arange(chunks)))


def _cut(leaf: Array, chunks: int, parts: int) -> Array:
    """Cut an array into `chunks` equal pieces, padded with zeros.

    Piece i has the elements i, i + chunks, i + 2 * chunks and so on. Devices may split the positions into `parts`
    consecutive parts. Each device then holds an equal share of every piece.
    """
    size = parts * -(-len(leaf) // (chunks * parts))
    filled = jnp.pad(leaf, [(0, size * chunks - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))
    return jnp.moveaxis(filled.reshape(size, chunks, *leaf.shape[1:]), 1, 0)


def _sum_over_chunks(
    total: Callable[..., Array], logits: Callable[..., Array], hidden: Float[Array, "chunks n width"], rest: PyTree
) -> Array:
    """The sum of `total(logits, hidden, *rest)` over the chunks.

    The gradient of `hidden` is computed together with the sum, while a chunk's logits exist. The logits are neither
    kept nor computed again. The backward pass keeps only an array of the size of `hidden`.

    There is a second way, for parameters that train in full. It computes all logits at once, and `logits` gets all
    trainable parameters. For a head that trains, its own gradient is larger than the logits.
    """
    # `logits` uses arrays from outside, such as the parameters. They may have gradients, and `custom_vjp` has gradients
    # only for arguments. So these arrays become arguments.
    head, closed = jax.closure_convert(logits, hidden[0], rest[-1][0])

    def one(closed: list[Array], hidden: Array, rest: tuple) -> Array:
        return total(lambda part, index: head(part, index, *closed), hidden, *rest)

    @jax.custom_vjp
    def summed(closed: list[Array], hidden: Array) -> Array:
        return jnp.sum(jax.lax.map(lambda part: one(closed, *part), (hidden, rest)))

    def forward(closed, hidden):
        arrays = [leaf.value for leaf in closed]
        if any(leaf.perturbed for leaf in closed):

            def at_once(closed, hidden):
                return jnp.sum(jax.vmap(partial(one, closed))(hidden, rest))

            return jax.vjp(at_once, arrays, hidden.value)
        parts = (hidden.value, rest)
        totals, gradient = jax.lax.map(lambda part: jax.value_and_grad(one, argnums=1)(arrays, *part), parts)
        return jnp.sum(totals), jax.tree_util.Partial(_scaled, gradient)

    summed.defvjp(forward, lambda pull_back, scale: pull_back(scale), symbolic_zeros=True)
    return summed(closed, hidden)


def _scaled(gradient: Array, scale: Array) -> tuple[None, Array]:
    return None, (scale * gradient).astype(gradient.dtype)
