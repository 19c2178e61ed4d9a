"""Instructions and conversations: the assistant's turns are learned."""

from collections.abc import Mapping, Sequence
from typing import Any

from hut_jax.core.errors import UserError
from hut_jax.core.files import read_text
from hut_jax.data.chat.dataset import load_chat
from hut_jax.data.chat.encoding import with_begin
from hut_jax.data.chat.template import end_of_turn, template_of
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.tasks.base import TaskData
from hut_jax.tasks.causal_lm import CausalLM
from hut_jax.tasks.config import ChatData


class Chat(CausalLM):
    """The conversations of `config.data.file`."""

    name = "chat"
    data_section = ChatData

    def fit_tokenizer(self, tokenizer: Tokenizer, data: Any) -> None:
        """Give the tokenizer the chat template of `config.data.template`.

        Raises:
            UserError: the file cannot be read, or is empty.
        """
        if data.template:
            if not (template := read_text(data.template)).strip():
                raise UserError(f"{data.template}, the file in config.data.template, is empty")
            tokenizer.chat_template = template

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Each text as it is, after the token that the tokenizer adds in front of a text."""
        return [with_begin(ids, tokenizer) for ids in tokenizer.encode_batch(texts)]

    def conversation(self, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> list[int]:
        """The tokens of a conversation, up to where the assistant says something.

        Raises:
            UserError: the tokenizer has no chat template, or the template refuses the conversation.
        """
        if (render := template_of(tokenizer)) is None:
            raise UserError(
                "the tokenizer has no chat template, which a chat needs; --config.tokenizer=FOLDER names one that has, "
                "and for a run of the task 'chat', --config.data.template=FILE names a template"
            )
        return tokenizer.encode(render(messages, True))

    def end_tokens(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The tokenizer's end token, and the one that ends a turn in the chat template."""
        turn = end_of_turn(tokenizer).token
        return (*super().end_tokens(tokenizer), *([] if turn is None else [turn]))

    def load_data(self, data: Any, tokenizer: Tokenizer) -> TaskData:
        """Rows of training examples, read as they are needed, and validation examples.

        Raises:
            UserError: no file is named or a row is too short for an example; or as `load_chat`.
        """
        if not data.file:
            raise UserError("config.data.file is empty; give a JSONL file of instructions or conversations")
        if data.row_length < data.max_length - 1:
            raise UserError(
                f"config.data.row is {data.row}, and an example may take {data.max_length - 1} tokens of a row; set it "
                f"to {data.max_length - 1} or more, or config.data.max_length to {data.row + 1} or less"
            )
        splits = load_chat(
            data.file,
            tokenizer,
            max_length=data.max_length,
            row=data.row_length,
            holdout=data.holdout,
            validation=data.validation,
        )
        return TaskData(splits.train, {"validation": splits.validation}, splits.notes)


class Messages(Chat):
    """Conversations with any run: each text is the message of a user."""

    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """Each text as the message of a user, by the chat template."""
        return [self.conversation([{"role": "user", "content": text}], tokenizer) for text in texts]
