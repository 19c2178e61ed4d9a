"""A tokenizer's chat template: from messages to text, and the token that ends a turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from hut_jax.core.errors import UserError, one_line
from hut_jax.data.chat.turns import ROLE, Render
from hut_jax.data.tokenizer import Tokenizer

_SAID = "Yes"


def template_of(tokenizer: Tokenizer) -> Render | None:
    """The tokenizer's chat template as a function; None if it has none."""
    if not (template := tokenizer.chat_template):
        return None

    def render(messages: Sequence[Mapping[str, Any]], begin: bool) -> str:
        try:
            return tokenizer.auto.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=begin
            )
        except Exception as error:  # whatever the template raises
            raise UserError(f"the chat template refuses it: {one_line(error)}") from error

    return render


def end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The special token that the chat template writes after what the assistant said; None if there is none.

    Raises:
        UserError: the template refuses a conversation of one question and its answer.
    """
    if (render := template_of(tokenizer)) is None:
        return None
    text = render([{"role": "user", "content": "Is it?"}, {"role": ROLE, "content": _SAID}], False)
    after = tokenizer.encode(text.rpartition(_SAID)[2].lstrip())
    return after[0] if after and after[0] in tokenizer.auto.get_added_vocab().values() else None
