"""Causal language modelling on any text: pre-training from random weights, or adapting a model to the text."""

from hut_jax.core.errors import UserError
from hut_jax.data.text.dataset import load_text
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.tasks.base import TaskData
from hut_jax.tasks.causal_lm import CausalLM
from hut_jax.tasks.config import TextData


class PlainText(CausalLM):
    """Prediction of every token of the text `config.data.text`, in blocks of `config.data.block` tokens."""

    name = "lm"
    data_section = TextData

    def load_data(self, data: TextData, tokenizer: Tokenizer) -> TaskData:
        """Blocks of the text. The last blocks are for validation."""
        return load_blocks(data, tokenizer)


def load_blocks(data: TextData, tokenizer: Tokenizer) -> TaskData:
    """The blocks of the text that the section `data` of a config names.

    Raises:
        UserError: no text is named, or the text is missing, too short or not UTF-8.
    """
    if not data.text:
        raise UserError("config.data.text is empty; give a UTF-8 text, plain or .xz")
    splits = load_text(data.text, tokenizer, block=data.block, holdout=data.holdout, max_bytes=data.max_bytes)
    return TaskData(splits.train, {"validation": splits.validation})
