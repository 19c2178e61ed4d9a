"""Masked language modelling on any text (Devlin et al., arXiv 1810.04805, section 3.1; RoBERTa, arXiv 1907.11692, 4.1).

15 % of each block's tokens are predicted. Of these, 80 % become the mask, 10 % become a random token, and 10 % stay.
Each training step draws new tokens. Every evaluation draws the same tokens.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.data.loss import Evaluated, Loss
from hut_jax.data.tokenizer import Tokenizer, load_tokenizer
from hut_jax.models.hub.heads import Head
from hut_jax.tasks.base import Example, Task, TaskData
from hut_jax.tasks.causal_lm import lm_inputs, lm_metrics
from hut_jax.tasks.config import TextData
from hut_jax.tasks.cross_entropy import prediction_loss
from hut_jax.tasks.lm import load_blocks

PREDICTED, MASKED, RANDOM = 0.15, 0.8, 0.1


class MaskedLM(Task):
    """Prediction of hidden tokens in the text `config.data.text`, in blocks of `config.data.block` tokens."""

    name = "mlm"
    data_section = TextData

    @property
    def head(self) -> Head:
        """Logits over the vocabulary."""
        return Head("mlm")

    def load_tokenizer(self, source: str, model: Any) -> Tokenizer:
        """An encoder's, with a mask token."""
        return load_tokenizer(source, "cls", "sep", "mask")

    def load_data(self, data: TextData, tokenizer: Tokenizer) -> TaskData:
        """Blocks of the text. The last blocks are for validation."""
        return load_blocks(data, tokenizer)

    def loss(self, tokenizer: Tokenizer, label_smoothing: float = 0.0) -> Loss:
        """The cross-entropy in nats, summed over the predicted tokens."""
        return partial(
            masked_lm_loss,
            cls=tokenizer.special("cls"),
            sep=tokenizer.special("sep"),
            mask=tokenizer.special("mask"),
            vocab=tokenizer.vocab_size,
            label_smoothing=label_smoothing,
        )

    def metrics(self, evaluated: Mapping[str, Evaluated]) -> dict[str, float]:
        """The mean loss in nats per token, and the perplexity."""
        return lm_metrics(evaluated)

    def example(self, config: Any, rows: int, length: int, label_smoothing: float = 0.0) -> Example:
        """A batch of whole blocks. It has no `logits_at`: the loss draws the predicted positions."""
        inputs = lm_inputs(rows, length, predicted=predicted_tokens(length))
        batch = {name: leaf for name, leaf in inputs.items() if name != "logits_at"}
        options = {"cls": 0, "sep": 1, "mask": 2, "vocab": config.vocab_size, "label_smoothing": label_smoothing}
        return Example(inputs, batch, partial(masked_lm_loss, **options))


def masked_lm_loss(
    apply: Callable[..., Array],
    batch: Mapping[str, Array],
    *,
    cls: int,
    sep: int,
    mask: int,
    vocab: int,
    label_smoothing: float = 0.0,
    rngs: Mapping[str, Array] | None = None,
    **kwargs: Any,
) -> tuple[Float[Array, ""], Float[Array, ""], tuple[()]]:
    """The summed loss of a batch's predicted tokens, and their number. There are no outputs.

    Args:
        apply: the model: see `prediction_loss`.
        batch: a batch of whole blocks of a text. `hut_jax.data.sequences.Sequences` describes its arrays. Its labels
            are not used.
        cls: the token that replaces the first of every block.
        sep: the token between documents; it is never predicted.
        mask: the token that hides another.
        vocab: the size of the vocabulary that random tokens are drawn from.
        label_smoothing: the share of probability spread over the vocabulary.
        rngs: the model's. "dropout" also draws the hidden tokens. Without rngs the draw depends on the tokens alone.
        **kwargs: the model's arguments, such as `deterministic`.
    """
    tokens = jnp.asarray(batch["input_ids"]).at[:, 0].set(cls)
    key = jax.random.fold_in(rngs["dropout"], 1) if rngs else jax.random.fold_in(jax.random.key(0), jnp.sum(tokens))
    free = jnp.asarray(batch["attention_mask"], bool) & (tokens != cls) & (tokens != sep)
    shown, positions, weights = hide(key, tokens, free, mask=mask, vocab=vocab)
    total = prediction_loss(
        apply,
        shown,
        batch["attention_mask"],
        positions=positions,
        labels=tokens.reshape(-1)[positions],
        weights=weights,
        label_smoothing=label_smoothing,
        rngs=rngs,
        **kwargs,
    )
    return total, jnp.sum(weights), ()


def predicted_tokens(length: int) -> int:
    """The number of predicted tokens in a block."""
    return max(1, round(PREDICTED * length))


def hide(
    key: jax.Array, tokens: Int[Array, "b l"], free: Bool[Array, "b l"], *, mask: int, vocab: int
) -> tuple[Int[Array, "b l"], Int[Array, " n"], Float[Array, " n"]]:
    """Choose the tokens to predict, and hide most of them.

    Args:
        key: for the draws.
        tokens: whole blocks.
        free: which tokens may be chosen.
        mask: the token that hides another.
        vocab: the size of the vocabulary that random tokens are drawn from.

    Returns:
        The tokens that the model reads; the predicted positions as indices into `b * l`, the same number in every
        row; and the weights of these positions. A weight is 0 if the row has too few free tokens.
    """
    rows, length = tokens.shape
    count = predicted_tokens(length)
    choose, how, other = jax.random.split(key, 3)
    scores = jnp.where(free, jax.random.uniform(choose, tokens.shape), -1.0)
    values, columns = jax.lax.top_k(scores, count)
    u = jax.random.uniform(how, columns.shape)
    drawn = jax.random.randint(other, columns.shape, 0, vocab)
    old = jnp.take_along_axis(tokens, columns, axis=1)
    new = jnp.where(u < MASKED, mask, jnp.where(u < MASKED + RANDOM, drawn, old))
    row = jnp.arange(rows)[:, None]
    shown = tokens.at[row, columns].set(jnp.where(values >= 0, new, old))
    return shown, (row * length + columns).reshape(-1), (values >= 0).astype(jnp.float32).reshape(-1)
