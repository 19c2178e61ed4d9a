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
    texts = said.learned(render) if isinstance(said, Conversation) else [said]
    return [one.text[first:last] for one in texts for first, last in one.spans]


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
    assert parse('{"prompt": "a ", "completion": "b"}') == Learned("a b", ((2, 3),), True, True)
    asked = [message("user", "a"), message("assistant", "not me"), message("user", "b")]
    assert spans({"prompt": asked, "completion": [message("assistant", "C")]}) == ["C</>\n"]


def test_of_a_text_all_is_learned():
    assert parse('{"text": "abc", "source": 3}') == Learned("abc", ((0, 3),), True, True)


def test_a_template_that_drops_the_white_space_after_the_last_turn_is_followed():
    def stripped(messages, begin):
        return render(messages, begin) if begin else render(messages, begin).rstrip("\n")

    talk = [message("user", "a"), message("assistant", "B"), message("user", "c"), message("assistant", "D")]
    assert spans({"messages": talk}, stripped) == ["B</>", "D</>"]


def test_where_a_template_writes_the_last_turn_in_another_way_each_turn_is_an_example_of_its_own():
    """As Qwen 3's, which adds an empty thought to the last turn."""

    def thinks(messages, begin):
        text = render(messages[:-1], False)
        last, thought = messages[-1], "<think></think>" if messages[-1]["role"] == "assistant" else ""
        return f"{text}<{last['role']}>{thought}{last['content']}</>\n" + ("<assistant>" if begin else "")

    talk = [message("user", "a"), message("assistant", "B"), message("user", "c"), message("assistant", "D")]
    first, second = Conversation(talk, 0).learned(thinks)
    assert first.text == "<user>a</>\n<assistant><think></think>B</>\n"
    assert second.text == "<user>a</>\n<assistant>B</>\n<user>c</>\n<assistant><think></think>D</>\n"
    assert spans({"messages": talk}, thinks) == ["<think></think>B</>\n", "<think></think>D</>\n"]
    assert spans({"prompt": talk[:3], "completion": talk[3:]}, thinks) == ["<think></think>D</>\n"]


def test_a_template_that_begins_a_turn_in_another_way_than_it_writes_it_is_refused():
    def thinking(messages, begin):
        return render(messages, begin) + ("<think>" if begin else "")

    talk = [message("user", "a"), message("assistant", "B")]
    with pytest.raises(UserError, match=r"begin in another way than it writes message 2, so .* config.data.template$"):
        spans({"messages": talk}, thinking)


def test_the_parts_of_a_content_are_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]
    said = parse(json.dumps({"messages": [message("user", parts), message("assistant", parts)], "tools": []}))
    assert said.messages == [message("user", "a b"), message("assistant", "a b")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: "),
        ("[" * 200_000, "not JSON: "),
        (r'{"text": "\uD83D"}', r"half of a surrogate pair, such as \ud83d alone, is no text"),
        ("[1]", "a list in place of a JSON object"),
        ("3", "a number in place of a JSON object"),
        ("{}", "it has no field, and none of 'messages', 'prompt' and 'completion', or 'text'"),
        ('{"mesages": []}', "it has 'mesages', and none of 'messages'"),
        ('{"messages": []}', "'messages' is an empty list; it should be a list of messages"),
        ('{"messages": "a"}', "'messages' is a text; it should be a list of messages"),
        ('{"messages": ["a"]}', "message 1 of 'messages' is a text in place of a JSON object"),
        (
            '{"text": "a"}\r{"text": "b"}',
            "not JSON: Extra data: line 1 column 15 (char 14); a line should end with a line",
        ),
        ('{"messages": [{"rol": "user"}]}', "message 1 of 'messages' has no 'role'; it has 'rol'"),
        ('{"messages": [{"role": "user"}]}', "message 1 of 'messages' has no 'content'; it has 'role'"),
        ('{"messages": [{"role": 1, "content": "a"}]}', "the 'role' of message 1 of 'messages' is a number"),
        ('{"messages": [{"role": "user", "content": null}]}', "the 'content' of message 1 of 'messages' is null; it"),
        (
            '{"messages": [{"role": "user", "content": []}]}',
            "the 'content' of message 1 of 'messages' is an empty list",
        ),
        (
            '{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"type": "function"}]}]}',
            "message 1 of 'messages' has 'tool_calls', and tools are not supported",
        ),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}',
            "the 'content' of message 1 of 'messages' has a part of the type 'image_url'; each should be {\"type\": ",
        ),
        (
            '{"messages": [{"role": "user", "content": ["a"]}]}',
            "the 'content' of message 1 of 'messages' has a part wi",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "Assistant", "content": "b"}]}',
            "no message to learn has the role 'assistant', only 'user', 'Assistant': there is nothing to learn",
        ),
        ('{"text": "a", "tools": [{"type": "function"}]}', "it has 'tools', which are not supported"),
        ('{"prompt": "a", "response": "b"}', "it has no 'completion'; it has 'prompt', 'response'"),
        ('{"completion": "a"}', "it has no 'prompt'; it has 'completion'"),
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
