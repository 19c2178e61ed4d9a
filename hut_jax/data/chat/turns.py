"""A line of instruction data as text, with the parts that the model learns to say.

A line is a JSON object of one of these forms, as other libraries take them:

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
    {"prompt": "...", "completion": "..."}        or both as lists of messages
    {"text": "..."}                               all of it is learned

A content may be a list of parts, {"type": "text", "text": "..."}, as OpenAI writes it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hut_jax.core.errors import UserError, one_line

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
        begins: whether the token goes before it that the tokenizer adds to a text. A chat template writes its own.
        ends: whether an end token follows, which is learned, too.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    begins: bool
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

    def learned(self, render: Render) -> list[Learned]:
        """The conversation by a chat template: one text, in which every turn is learned.

        A turn begins where the template, given all messages before it, would let the assistant begin, and ends where
        the template ends it. If the template writes a turn in another way where others follow, each turn is learned in
        a text of its own, with the messages before it.

        Raises:
            UserError: the template does not begin a turn as it writes it.
        """
        if (whole := _learned(self.messages, self.turns, render)) is not None:
            return [whole]
        found = []
        for turn in self.turns:
            if (one := _learned(self.messages[: turn + 1], [turn], render)) is None:
                raise UserError(
                    f"the chat template lets the assistant begin in another way than it writes message {turn + 1}, so "
                    "the turn cannot be learned; name another template in config.data.template"
                )
            found.append(one)
        return found


def _learned(messages: Sequence[Mapping[str, Any]], turns: Sequence[int], render: Render) -> Learned | None:
    """The text of messages, with these turns learned; None if it does not hold one of them as it was begun."""
    text, spans = render(messages, False), []
    for turn in turns:
        before = render(messages[:turn], True) if turn else _until_begun(text, render)
        after = render(messages[: turn + 1], False)
        after = after if text.startswith(after) else after.rstrip()  # white space may end a text alone
        if not (after.startswith(before) and text.startswith(after)):
            return None
        spans.append((len(before), len(after)))
    return Learned(text, tuple(spans), False, False)


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
        several = "; a line should end with a line feed, not with a carriage return" if "\r" in line.strip() else ""
        raise UserError(f"not JSON: {one_line(error)}{several}") from None
    if not isinstance(example, dict):
        raise UserError(f"{_kind(example)} in place of a JSON object; each example should be an object on its own line")
    if example.get("tools"):
        raise UserError("it has 'tools', which are not supported; leave the field out to train without them")
    if "messages" in example:
        return _conversation(_messages(example["messages"], "messages"), 0)
    if "prompt" in example or "completion" in example:
        prompt, completion = (_field(example, name) for name in ("prompt", "completion"))
        if isinstance(prompt, str) and isinstance(completion, str):
            if not completion:
                raise UserError("'completion' is empty: there is nothing to learn")
            return Learned(prompt + completion, ((len(prompt), len(prompt) + len(completion)),), True, True)
        asked, answer = _messages(prompt, "prompt"), _messages(completion, "completion")
        return _conversation([*asked, *answer], len(asked))
    if "text" in example:
        text = _field(example, "text")
        if not isinstance(text, str) or not text:
            raise UserError(f"'text' is {_kind(text)}; it should be a text that is not empty")
        return Learned(text, ((0, len(text)),), True, True)
    raise UserError(f"it has {_names(example)}, and none of {_FORMS}")


def _field(example: Mapping[str, Any], name: str) -> Any:
    if name not in example:
        raise UserError(f"it has no {name!r}; it has {_names(example)}")
    return example[name]


def _messages(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{name!r} is {_kind(value)}; it should be a list of messages")
    return [_message(message, f"message {number} of {name!r}") for number, message in enumerate(value, start=1)]


def _message(message: Any, where: str) -> Mapping[str, Any]:
    """The message, with its content as one text."""
    if not isinstance(message, dict):
        raise UserError(f"{where} is {_kind(message)} in place of a JSON object")
    if message.get("tool_calls"):
        raise UserError(f"{where} has 'tool_calls', and tools are not supported; leave the conversation out")
    for field in ("role", "content"):
        if field not in message:
            raise UserError(f"{where} has no {field!r}; it has {_names(message)}")
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        raise UserError(f"the 'role' of {where} is {_kind(role)}; it should be a text")
    if isinstance(content, list) and content:
        return message | {"content": "".join(_part(part, where) for part in content)}
    if not isinstance(content, str):
        raise UserError(f"the 'content' of {where} is {_kind(content)}; it should be a text, or a list of texts' parts")
    return message


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        said = f"of the type {kind!r}" if isinstance(kind, str) and kind != "text" else "without a text"
        raise UserError(
            f'the \'content\' of {where} has a part {said}; each should be {{"type": "text", "text": "..."}}'
        )
    return part["text"]


def _conversation(messages: Sequence[Mapping[str, Any]], asked: int) -> Conversation:
    conversation = Conversation(messages, asked)
    if not conversation.turns:
        roles = ", ".join(dict.fromkeys(repr(message["role"]) for message in messages[asked:]))
        raise UserError(f"no message to learn has the role {ROLE!r}, only {roles}: there is nothing to learn")
    return conversation


def _names(example: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, example)) or "no field"


def _kind(value: Any) -> str:
    names = {dict: "a JSON object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    if value in ([], "", {}):
        return f"an empty {names[type(value)].split(' ', 1)[1]}"
    return names.get(type(value), "a number")
