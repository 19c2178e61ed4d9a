"""Next-token prediction, the common part of the tasks E2E and plain text."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.data.loss import Evaluated, Loss
from hut_jax.data.tokenizer import Tokenizer, load_tokenizer
from hut_jax.models.hub.heads import Head
from hut_jax.tasks.base import Example, GeneratesText
from hut_jax.tasks.cross_entropy import prediction_loss


class CausalLM(GeneratesText):
    """A task of a causal language model. Subclasses add the data."""

    @property
    def head(self) -> Head:
        """Logits over the vocabulary."""
        return Head("causal")

    def load_tokenizer(self, source: str, model: Any) -> Tokenizer:
        """The base's, which has an end token."""
        return load_tokenizer(source)

    def loss(self, tokenizer: Tokenizer, label_smoothing: float = 0.0) -> Loss:
        """The cross-entropy in nats, summed over the predicted tokens."""
        return partial(causal_lm_loss, label_smoothing=label_smoothing)

    def metrics(self, evaluated: Mapping[str, Evaluated]) -> dict[str, float]:
        """The mean loss in nats per token, and the perplexity."""
        return lm_metrics(evaluated)

    def example(self, config: Any, rows: int, length: int, label_smoothing: float = 0.0) -> Example:
        """A batch in which every token is predicted."""
        inputs = lm_inputs(rows, length, predicted=length)
        slots = inputs["logits_at"].shape
        labels = {"labels": jax.ShapeDtypeStruct(slots, jnp.int32), "weights": jax.ShapeDtypeStruct(slots, jnp.float32)}
        return Example(inputs, inputs | labels, partial(causal_lm_loss, label_smoothing=label_smoothing))

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """The beginning of each text, as it is."""
        return tokenizer.encode_batch(texts)


def causal_lm_loss(
    apply: Callable[..., Array], batch: Mapping[str, Array], *, label_smoothing: float = 0.0, **kwargs: Any
) -> tuple[Float[Array, ""], Float[Array, ""], tuple[()]]:
    """The summed loss of a batch, and the number of predicted tokens. There are no outputs.

    Args:
        apply: the model: see `prediction_loss`.
        batch: a batch of sequences (`hut_jax.data.sequences.Sequences`) or of rows of them (`hut_jax.data.packing`).
        label_smoothing: the share of probability spread over the vocabulary.
        **kwargs: the model's arguments, such as `deterministic` and `rngs`.
    """
    several = {name: batch[name] for name in ("position_ids", "segment_ids") if name in batch}
    total = prediction_loss(
        apply,
        batch["input_ids"],
        None if several else batch["attention_mask"],  # positions without a token are a segment of their own
        arrays=several,
        positions=batch["logits_at"],
        labels=batch["labels"],
        weights=batch["weights"],
        label_smoothing=label_smoothing,
        **kwargs,
    )
    return total, jnp.sum(batch["weights"]), ()


def perplexity(loss: float) -> float:
    """`exp(loss)` for a mean loss in nats per token; infinite if that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def lm_metrics(evaluated: Mapping[str, Evaluated]) -> dict[str, float]:
    """The metrics of a language model: the mean loss in nats per token, and the perplexity."""
    loss = evaluated["validation"].loss
    return {"loss": loss, "perplexity": perplexity(loss)}


def lm_inputs(rows: int, length: int, predicted: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The arguments of a language model's forward pass, with `predicted` positions of each row, as shapes."""
    return {
        "input_ids": jax.ShapeDtypeStruct((rows, length), jnp.int32),
        "attention_mask": jax.ShapeDtypeStruct((rows, length), jnp.bool_),
        "logits_at": jax.ShapeDtypeStruct((rows * predicted,), jnp.int32),
    }
