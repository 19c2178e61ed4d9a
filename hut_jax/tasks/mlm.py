"""Masked language modelling on any text (Devlin et al., arXiv 1810.04805, section 3.1; RoBERTa, arXiv 1907.11692, 4.1).

Of each block's tokens 15 % are to be predicted: 8 in 10 of them are hidden behind the mask token, 1 in 10 behind a
random token, and 1 in 10 stay. Which ones is drawn anew for each update, and for evaluation always alike.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from hut_jax.core.errors import UserError
from hut_jax.data.encoder_tokenizer import EncoderTokenizer
from hut_jax.data.text.dataset import load_text
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.tasks.base import Task
from hut_jax.tasks.causal_lm import lm_metrics
from hut_jax.tasks.vocabulary import prediction_loss

PREDICTED, MASKED, RANDOM = 0.15, 0.8, 0.1


def load(config: ConfigDict, tokenizer: BaseTokenizer) -> Task:
    """The task on the text `config.data.text`, in blocks of `config.data.block` tokens.

    Raises:
        UserError: no text is named, it is missing, too short or no UTF-8, or the tokenizer has no mask.
    """
    data = config.data
    if not data.text:
        raise UserError("config.data.text is empty; give a UTF-8 text, plain or .xz")
    if not isinstance(tokenizer, EncoderTokenizer):
        raise UserError(
            "masked language modelling wants RoBERTa's or BERT's tokenizer, which has a mask; see config.task"
        )
    splits = load_text(data.text, tokenizer, block=data.block, holdout=data.holdout, max_bytes=data.max_bytes)
    loss = partial(
        masked_lm_loss, cls=tokenizer.cls_id, sep=tokenizer.sep_id, mask=tokenizer.mask_id, vocab=tokenizer.vocab_size
    )
    return Task(splits.train, {"validation": splits.validation}, loss, lm_metrics)


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
    """The summed loss of a batch's hidden tokens, and their number; metrics want no more.

    Args:
        apply: the model: see `prediction_loss`.
        batch: whole blocks, as `hut_jax.data.batching` makes them of a text; of its labels nothing is used.
        cls: the token that every block begins with, in place of its own first.
        sep: the token between documents; it is never hidden.
        mask: the token that hides another.
        vocab: random tokens are drawn below this.
        label_smoothing: the share of probability spread over the vocabulary.
        rngs: the model's; "dropout" also draws what is hidden. Without it that depends on the tokens alone.
        **kwargs: the model's, such as `deterministic`.
    """
    tokens = jnp.asarray(batch["input_ids"]).at[:, 0].set(cls)
    key = jax.random.fold_in(rngs["dropout"], 1) if rngs else jax.random.fold_in(jax.random.key(0), jnp.sum(tokens))
    free = jnp.asarray(batch["attention_mask"], bool) & (tokens != cls) & (tokens != sep)
    shown, places, weights = hide(key, tokens, free, mask=mask, vocab=vocab)
    total = prediction_loss(
        apply,
        shown,
        batch["attention_mask"],
        places=places,
        labels=tokens.reshape(-1)[places],
        weights=weights,
        label_smoothing=label_smoothing,
        rngs=rngs,
        **kwargs,
    )
    return total, jnp.sum(weights), ()


def hide(
    key: jax.Array, tokens: Int[Array, "b l"], free: Bool[Array, "b l"], *, mask: int, vocab: int
) -> tuple[Int[Array, "b l"], Int[Array, " n"], Float[Array, " n"]]:
    """Hide some of the tokens.

    Args:
        key: what is drawn is drawn with it.
        tokens: whole blocks.
        free: which of them may be hidden.
        mask: the token that hides another.
        vocab: random tokens are drawn below this.

    Returns:
        The tokens as the model is to see them; the places that it must predict, counted through `b * l`, as many
        in every row; and their weights, 0 where a row has fewer free tokens than that.
    """
    rows, length = tokens.shape
    count = max(1, round(PREDICTED * length))
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
