"""A line of instruction data as text, with the parts that the model learns to say.

A line is a JSON object of one of these forms, as other libraries take them:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
    {"prompt": "...", "completion": "..."}        or both as lists of messages
    {"text": "..."}                               all of it is learned
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hut_jax.core.errors import UserError, nearest, one_line

ROLE = "assistant"
"""The role whose turns are learned."""

_FORMS = "'messages', 'prompt' and 'completion', or 'text'"

Render = Callable[[Sequence[Mapping[str, Any]], bool], str]
"""The text of messages by a chat template; True: with the beginning of the assistant's next turn."""


class Learned(NamedTuple):
    """A text, and the spans of it that are learned, as first and last character (exclusive), ascending.

    Attributes:
        text: the whole text.
        spans: the parts to learn.
        ends: whether an end token follows, which is learned, too. A chat template has its own.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    ends: bool


class Conversation(NamedTuple):
    """Messages, of which the assistant's are learned.

    Attributes:
        messages: all of them.
        asked: the number of messages before the first that may be learned.
    """

    messages: Sequence[Mapping[str, Any]]
    asked: int

    @property
    def turns(self) -> list[int]:
        """The messages that are learned, by their places."""
        return [i for i, message in enumerate(self.messages) if message["role"] == ROLE and i >= self.asked]

    def learned(self, render: Render) -> Learned:
        """The conversation by a chat template.

        A turn begins where the template, given all messages before it, would let the assistant begin, and ends where
        the template ends it.

        Raises:
            UserError: the template writes a turn in another way where others follow.
        """
        text, spans = render(self.messages, False), []
        for turn in self.turns:
            before = render(self.messages[:turn], True) if turn else _until_begun(text, render)
            after = render(self.messages[: turn + 1], False)
            after = after if text.startswith(after) else after.rstrip()  # white space may end a text alone
            if not (after.startswith(before) and text.startswith(after)):
                raise UserError(
                    f"the chat template writes message {turn + 1} in another way where messages follow it; split the "
                    "conversation into examples with 'prompt' and 'completion', one for each turn of the assistant"
                )
            spans.append((len(before), len(after)))
        return Learned(text, tuple(spans), False)


def _until_begun(text: str, render: Render) -> str:
    """The beginning of a conversation that the assistant opens, as far as its turn's mark."""
    asked = [{"role": "user", "content": "?"}]
    mark = render(asked, True).removeprefix(render(asked, False))
    return text[: text.find(mark) + len(mark)] if mark in text else ""


def parse(line: str) -> Learned | Conversation:
    """What a line says, and what of it is learned.

    Raises:
        UserError: the line is malformed, or nothing of it is learned.
    """
    try:
        example = json.loads(line)
        if "\\ud" in line.lower():
            json.dumps(example, ensure_ascii=False).encode()  # for its error
    except UnicodeEncodeError:
        raise UserError("half of a surrogate pair, such as \\ud83d alone, is no text") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"no JSON: {one_line(error)}") from None
    if not isinstance(example, dict):
        raise UserError(f"{_kind(example)} in place of a JSON object")
    if "messages" in example:
        return _conversation(_messages(example["messages"], "messages"), 0)
    if "prompt" in example or "completion" in example:
        prompt, completion = (_field(example, name) for name in ("prompt", "completion"))
        if isinstance(prompt, str) and isinstance(completion, str):
            if not completion:
                raise UserError("'completion' is empty: there is nothing to learn")
            return Learned(prompt + completion, ((len(prompt), len(prompt) + len(completion)),), True)
        asked, answer = _messages(prompt, "prompt"), _messages(completion, "completion")
        return _conversation([*asked, *answer], len(asked))
    if "text" in example:
        text = _field(example, "text")
        if not isinstance(text, str) or not text:
            raise UserError(f"'text' is {_kind(text)}; it should be a text that is not empty")
        return Learned(text, ((0, len(text)),), True)
    raise UserError(f"it has {', '.join(map(repr, example)) or 'no field'}, and none of {_FORMS}")


def _field(example: Mapping[str, Any], name: str) -> Any:
    if name not in example:
        raise UserError(f"it has no {name!r}; {nearest(name, example)}")
    return example[name]


def _messages(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{name!r} is {_kind(value)}; it should be a list of messages")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise UserError(f"message {number} of {name!r} is {_kind(message)} in place of a JSON object")
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise UserError(f"message {number} of {name!r} has no text {field!r}; {nearest(field, message)}")
    return value


def _conversation(messages: Sequence[Mapping[str, Any]], asked: int) -> Conversation:
    conversation = Conversation(messages, asked)
    if not conversation.turns:
        raise UserError(f"no message to learn has the role {ROLE!r}: there is nothing to learn")
    return conversation


def _kind(value: Any) -> str:
    names = {dict: "a JSON object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    if value in ([], "", {}):
        return f"an empty {names[type(value)].split(' ', 1)[1]}"
    return names.get(type(value), "a number")
