"""Causal language modelling on any text: pre-training from random weights, or adapting a model to the text."""

from ml_collections import ConfigDict

from hut_jax.core.errors import UserError
from hut_jax.data.text.dataset import load_text
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.tasks.base import Task
from hut_jax.tasks.causal_lm import causal_lm_loss, lm_metrics


def load(config: ConfigDict, tokenizer: BaseTokenizer) -> Task:
    """The task on the text `config.data.text`, in blocks of `config.data.block` tokens.

    Raises:
        UserError: no text is named, or it is missing, too short or no UTF-8.
    """
    data = config.data
    if not data.text:
        raise UserError("config.data.text is empty; give a UTF-8 text, plain or .xz")
    splits = load_text(data.text, tokenizer, block=data.block, holdout=data.holdout, max_bytes=data.max_bytes)
    return Task(splits.train, {"validation": splits.validation}, causal_lm_loss, lm_metrics)
