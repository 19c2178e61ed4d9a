"""Next-token prediction: the loss of E2E's completions and of plain text."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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


def causal_lm_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], *, label_smoothing: float = 0.0, **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], tuple[()]]:
    """The summed loss of a batch, and the number of tokens that carry it; metrics want no more.

    Args:
        apply: the model, which takes the batch's tokens, mask and `logits_at`, and `kwargs`.
        batch: as `hut_jax.data.batching` makes them.
        label_smoothing: the share of probability spread over the vocabulary.
        **kwargs: the model's, such as `deterministic` and `rngs`.
    """
    logits = apply(batch["input_ids"], batch["attention_mask"], logits_at=batch["logits_at"], **kwargs)
    losses = cross_entropy(logits, batch["labels"], label_smoothing)
    return jnp.sum(losses * batch["weights"]), jnp.sum(batch["weights"]), ()


def perplexity(loss: float) -> float:
    """`exp(loss)`, of a mean loss in nats a token."""
    # Past 700 exp overflows; such a model's perplexity says no more than infinity does.
    return math.exp(loss) if loss < 700 else math.inf


def lm_metrics(judged: Mapping[str, Any]) -> dict[str, float]:
    """What is reported of language models: the mean loss in nats a token, and the perplexity."""
    loss = judged["validation"].loss
    return {"loss": loss, "perplexity": perplexity(loss)}
