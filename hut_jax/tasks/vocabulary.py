"""The cross-entropy over a vocabulary, in chunks: all logits together are the largest array of a training step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from hut_jax.parallel.activations import batch_parts, shared_out

CHUNK = 256
"""Positions at once, for each part of a batch that devices share out. Of fewer the products with the vocabulary's
table take longer (on a CPU 64 a fifth more)."""


def cross_entropy(
    logits: Float[Array, "n vocab"], labels: Int[Array, " n"], label_smoothing: float = 0.0
) -> Float[Array, " n"]:
    """Cross-entropy in nats against `(1 - s) * one_hot(label) + s / vocab`.

    Label smoothing as in Szegedy et al., arXiv 1512.00567, section 7.
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
    attention_mask: Array,
    *,
    places: Int[Array, " n"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    label_smoothing: float = 0.0,
    chunk: int = CHUNK,
    rngs: Mapping[str, Array] | None = None,
    **kwargs: Any,
) -> Float[Array, ""]:
    """The weighted sum of the cross-entropies, in nats, of what a model predicts at some positions.

    Where the positions are too many for one chunk, the model's methods "hidden" and "logits" are called one by one.

    Args:
        apply: the model.
        input_ids: token ids.
        attention_mask: as the model takes it.
        places: indices into the flattened `batch * length` positions.
        labels: what is right there.
        weights: of each.
        label_smoothing: the share of probability spread over the vocabulary.
        chunk: of so many positions there are logits at a time, for each part of a shared batch.
        rngs: the model's.
        **kwargs: the model's, such as `deterministic`.
    """
    own: dict[str, Any] = {} if rngs is None else {"rngs": rngs}
    whole = partial(apply, input_ids, attention_mask, logits_at=places, **own, **kwargs)
    parts = batch_parts()
    chunks = -(-len(places) // (parts * chunk))
    if chunks <= 1:
        return jnp.sum(cross_entropy(whole(), labels, label_smoothing) * weights)
    jax.eval_shape(whole)  # for its errors: called whole, an adapter finds out what of it is never used

    hidden = apply(input_ids, attention_mask, method="hidden", **own, **kwargs)
    hidden = hidden.reshape(-1, hidden.shape[-1])[places]

    def logits(part: Array, index: Array) -> Array:
        # Without keys of their own chunks would share what is dropped.
        keys = {} if rngs is None else {"rngs": {name: jax.random.fold_in(key, index) for name, key in rngs.items()}}
        return apply(part, method="logits", **keys, **kwargs)

    def total(logits: Callable, hidden: Array, labels: Array, weights: Array, index: Array) -> Array:
        return jnp.sum(cross_entropy(logits(shared_out(hidden, None), index), labels, label_smoothing) * weights)

    hidden, labels, weights = (_cut(leaf, chunks, parts) for leaf in (hidden, labels, weights))
    return _sum_over_chunks(total, logits, hidden, (labels, weights, jnp.arange(chunks)))


def _cut(leaf: Array, chunks: int, parts: int) -> Array:
    """In `chunks` equal pieces, filled up with zeros: of every run of `chunks` neighbours one goes to each.

    So where devices share out the positions into `parts`, each has its share of every piece.
    """
    size = parts * -(-len(leaf) // (chunks * parts))
    filled = jnp.pad(leaf, [(0, size * chunks - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))
    return jnp.moveaxis(filled.reshape(size, chunks, *leaf.shape[1:]), 1, 0)


def _sum_over_chunks(
    total: Callable[..., Array], logits: Callable[..., Array], hidden: Float[Array, "chunks n width"], rest: PyTree
) -> Array:
    """The sum of `total(logits, hidden, *rest)` over the chunks.

    The gradient by `hidden` is found together with the sum, while a chunk's logits are there: they are neither kept
    nor computed again, and what is kept for the backward pass has the size of `hidden`. Where the head trains as well,
    as in full fine-tuning, its gradient is larger than the logits, and all of them are there at once; so they are
    where any parameter trains in full, since the head is then given all of them.
    """
    # What the head closes over and may have a gradient becomes an argument.
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
