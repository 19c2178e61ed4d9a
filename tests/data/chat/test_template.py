import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.chat.template import end_of_turn, template_of

TURN = "{% for m in messages %}<{{ m.role }}>"
THINKS = "{% if m.role == 'assistant' %}<think>Yes or no</think>\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (TURN + "{{ m.content }}<|endoftext|>\n{% endfor %}", True),
        (TURN + THINKS + "{{ m.content }} \n <|endoftext|>{% endfor %}", True),
        (TURN + "{{ m.content }}\n{% endfor %}<|endoftext|>", True),
        (TURN + "{{ m.content }}\n{% endfor %}", False),
        (TURN + "{{ m.content }}</s>\n{% endfor %}", False),  # no special token of this tokenizer
        ("", False),
    ],
)
def test_the_special_token_after_what_the_assistant_said_ends_a_turn(talking, template, ends):
    talking.chat_template = template
    assert end_of_turn(talking).token == (talking.eos_id if ends else None)


@pytest.mark.parametrize(("after", "text"), [("</>\n", "</>"), ("\n", ""), ("<|endoftext|></>", "")])
def test_text_that_ends_a_turn_in_place_of_a_special_token_is_told(talking, after, text):
    talking.chat_template = TURN + "{{ m.content }}" + after + "{% endfor %}"
    assert end_of_turn(talking).text == text


def test_a_template_makes_text_and_begins_the_assistants_turn_if_asked(talking):
    render = template_of(talking)
    assert render([{"role": "user", "content": "Hi"}], False) == "<user>Hi<|endoftext|>"
    assert render([{"role": "user", "content": "Hi"}], True) == "<user>Hi<|endoftext|><assistant>"


def test_a_template_that_refuses_is_one_line(talking):
    talking.chat_template = "{{ raise_exception('no\nsystem') }}"
    with pytest.raises(UserError, match=r"^the chat template refuses it: no system$"):
        end_of_turn(talking)
