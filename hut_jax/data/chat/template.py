"""A tokenizer's chat template: from messages to text, and the token that ends a turn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hut_jax.core.errors import UserError, one_line
from hut_jax.data.chat.turns import ROLE, Render
from hut_jax.data.tokenizer import Tokenizer

_ASKED = [{"role": "user", "content": "Is it?"}]
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


class TurnEnd(NamedTuple):
    """What the chat template writes after what the assistant said: a special token, or else text, or nothing."""

    token: int | None
    text: str


def end_of_turn(tokenizer: Tokenizer) -> TurnEnd:
    """What ends a turn of the assistant.

    Raises:
        UserError: the template refuses a conversation of one question and its answer.
    """
    if (render := template_of(tokenizer)) is None:
        return TurnEnd(None, "")
    text = render([*_ASKED, {"role": ROLE, "content": _SAID}], False).rpartition(_SAID)[2].strip()
    after = tokenizer.encode(text)
    special = after and after[0] in tokenizer.auto.get_added_vocab().values()
    return TurnEnd(after[0], "") if special else TurnEnd(None, text)
