"""Next-token prediction: the loss of E2E's completions and of plain text."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.tasks.vocabulary import prediction_loss


def causal_lm_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], *, label_smoothing: float = 0.0, **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], tuple[()]]:
    """The summed loss of a batch, and the number of tokens that carry it; metrics want no more.

    Args:
        apply: the model: see `prediction_loss`.
        batch: as `hut_jax.data.batching` makes them.
        label_smoothing: the share of probability spread over the vocabulary.
        **kwargs: the model's, such as `deterministic` and `rngs`.
    """
    total = prediction_loss(
        apply,
        batch["input_ids"],
        batch["attention_mask"],
        places=batch["logits_at"],
        labels=batch["labels"],
        weights=batch["weights"],
        label_smoothing=label_smoothing,
        **kwargs,
    )
    return total, jnp.sum(batch["weights"]), ()


def perplexity(loss: float) -> float:
    """`exp(loss)`, of a mean loss in nats a token."""
    # Past 700 exp overflows; such a model's perplexity says no more than infinity does.
    return math.exp(loss) if loss < 700 else math.inf


def lm_metrics(judged: Mapping[str, Any]) -> dict[str, float]:
    """What is reported of language models: the mean loss in nats a token, and the perplexity."""
    loss = judged["validation"].loss
    return {"loss": loss, "perplexity": perplexity(loss)}
