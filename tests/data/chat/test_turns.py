import json

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.chat.turns import Conversation, Learned, parse


def render(messages, begin):
    """A template with marks around each turn, as ChatML has them."""
    text = "".join(f"<{message['role']}>{message['content']}</>\n" for message in messages)
    return text + ("<assistant>" if begin else "")


def message(role, content):
    return {"role": role, "content": content}


def spans(line, render=render):
    said = parse(line if isinstance(line, str) else json.dumps(line))
    said = said.learned(render) if isinstance(said, Conversation) else said
    return [said.text[first:last] for first, last in said.spans]


def test_of_a_conversation_the_assistants_turns_are_learned_with_their_ends():
    talk = [message("system", "s"), message("user", "a"), message("assistant", "B"), message("user", "c")]
    talk.append(message("assistant", "D"))
    assert spans({"messages": talk}) == ["B</>\n", "D</>\n"]


def test_of_a_conversation_that_the_assistant_opens_its_first_turn_is_learned_without_what_begins_it():
    talk = {"messages": [message("assistant", "A"), message("user", "b")]}
    assert spans(talk) == ["A</>\n"]
    assert spans(talk, lambda messages, begin: f"<system>s</>\n{render(messages, begin)}") == ["A</>\n"]
    assert spans(talk, lambda messages, begin: render(messages, False)) == ["<assistant>A</>\n"]  # nothing begins it


def test_both_halves_of_a_surrogate_pair_are_one_character():
    assert parse(r'{"text": "\ud83d\uDE00"}').text == "\U0001f600"


def test_of_a_prompt_the_completion_is_learned():
    assert parse('{"prompt": "a ", "completion": "b"}') == Learned("a b", ((2, 3),), True)
    asked = [message("user", "a"), message("assistant", "not me"), message("user", "b")]
    assert spans({"prompt": asked, "completion": [message("assistant", "C")]}) == ["C</>\n"]


def test_of_a_text_all_is_learned():
    assert parse('{"text": "abc", "source": 3}') == Learned("abc", ((0, 3),), True)


def test_a_template_that_drops_the_white_space_after_the_last_turn_is_followed():
    def stripped(messages, begin):
        return render(messages, begin) if begin else render(messages, begin).rstrip("\n")

    talk = [message("user", "a"), message("assistant", "B"), message("user", "c"), message("assistant", "D")]
    assert spans({"messages": talk}, stripped) == ["B</>", "D</>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_way_out():
    def forgetful(messages, begin):
        shown = [one if one is messages[-1] else one | {"content": one["content"].lower()} for one in messages]
        return render(shown, begin)

    talk = [message("user", "a"), message("assistant", "B"), message("user", "c"), message("assistant", "D")]
    with pytest.raises(UserError, match="writes message 2 in another way where messages follow it; split"):
        spans({"messages": talk}, forgetful)
    assert spans({"prompt": talk[:3], "completion": talk[3:]}, forgetful) == ["D</>\n"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON: "),
        ("[" * 200_000, "no JSON: "),
        (r'{"text": "\uD83D"}', r"half of a surrogate pair, such as \ud83d alone, is no text"),
        ("[1]", "a list in place of a JSON object"),
        ("3", "a number in place of a JSON object"),
        ("{}", "it has no field, and none of 'messages', 'prompt' and 'completion', or 'text'"),
        ('{"mesages": []}', "it has 'mesages', and none of 'messages'"),
        ('{"messages": []}', "'messages' is an empty list; it should be a list of messages"),
        ('{"messages": "a"}', "'messages' is a text; it should be a list of messages"),
        ('{"messages": ["a"]}', "message 1 of 'messages' is a text in place of a JSON object"),
        ('{"messages": [{"rol": "user", "content": "a"}]}', "message 1 of 'messages' has no text 'role'; "),
        ('{"messages": [{"role": "user", "content": null}]}', "message 1 of 'messages' has no text 'content'; "),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no message to learn has the role 'assistant'"),
        ('{"prompt": "a"}', "it has no 'completion'; "),
        ('{"completion": "a"}', "it has no 'prompt'; "),
        ('{"prompt": "a", "completion": ""}', "'completion' is empty: there is nothing to learn"),
        ('{"prompt": "a", "completion": []}', "'prompt' is a text; it should be a list of messages"),
        ('{"text": ""}', "'text' is an empty text; it should be a text that is not empty"),
        ('{"text": 1}', "'text' is a number"),
    ],
)
def test_what_is_wrong_with_a_line_is_one_line(line, message):
    with pytest.raises(UserError) as caught:
        parse(line)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
