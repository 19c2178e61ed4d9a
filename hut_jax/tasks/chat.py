"""Instructions and conversations: the assistant's turns are learned."""

from collections.abc import Sequence
from typing import Any

from hut_jax.core.errors import UserError
from hut_jax.core.files import read_text
from hut_jax.data.chat.dataset import load_chat
from hut_jax.data.chat.encoding import template_of
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.tasks.base import TaskData
from hut_jax.tasks.causal_lm import CausalLM
from hut_jax.tasks.config import ChatData


class Chat(CausalLM):
    """The conversations of `config.data.file`."""

    name = "chat"
    data_section = ChatData

    def fit_tokenizer(self, tokenizer: Tokenizer, data: Any) -> None:
        """Give the tokenizer the chat template of `config.data.template`."""
        if data.template:
            tokenizer.chat_template = read_text(data.template)

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Each text as the message of a user; without a chat template, as it is."""
        render = template_of(tokenizer)
        if render is not None:
            texts = [render([{"role": "user", "content": text}], True) for text in texts]
        return tokenizer.encode_batch(texts)

    def load_data(self, data: Any, tokenizer: Tokenizer) -> TaskData:
        """Rows of training examples, read as they are needed, and validation examples."""
        if not data.file:
            raise UserError("config.data.file is empty; give a JSONL file of instructions or conversations")
        splits = load_chat(
            data.file,
            tokenizer,
            max_length=data.max_length,
            row=data.row_length,
            holdout=data.holdout,
            validation=data.validation,
        )
        return TaskData(splits.train, {"validation": splits.validation})
