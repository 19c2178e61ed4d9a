import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batches, Batching
from hut_jax.data.chat.encoding import Encoder, Turns, encode
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.template import template_of
from hut_jax.data.chat.turns import Learned
from hut_jax.data.python_backend import PythonBackend
from hut_jax.data.tokenizer import load_tokenizer
from tests.data.chat.conftest import TEMPLATE, adds_a

TALK = [
    {"role": "user", "content": "Where is the river?"},
    {"role": "assistant", "content": "By the café."},
    {"role": "user", "content": "And the hill?"},
    {"role": "assistant", "content": "Behind it."},
]


def said(example, tokenizer):
    return tokenizer.decode(example.tokens[example.learned])


def test_the_tokens_of_the_assistants_turns_are_learned_with_the_end_of_each(talking, write):
    encode_line = Encoder(Lines(write([{"messages": TALK}])), talking, 512)
    (example,) = encode_line(0)
    assert said(example, talking) == "By the café.<|endoftext|>Behind it.<|endoftext|>"
    whole = "".join(f"<{one['role']}>{one['content']}<|endoftext|>" for one in TALK)
    assert talking.decode(example.tokens) == whole
    assert example.tokens.tolist() == talking.encode(whole)


def test_a_completion_and_a_text_end_with_an_end_token(tiny_tokenizer):
    example = encode(Learned("The river: by the café", ((10, 22),), True, True), tiny_tokenizer)
    assert said(example, tiny_tokenizer) == " by the café<|endoftext|>"
    assert example.tokens[-1] == tiny_tokenizer.eos_id


@pytest.mark.parametrize(
    ("prompt", "completion", "joins"),
    [
        ("Name: ", "Anna", True),
        ("Name:\n\n", "Anna", True),
        ("Name:\n", "\n\nAnna", True),
        ("a", " b", False),
        ("", "Anna", False),
    ],
)
def test_a_completion_is_learned_after_the_tokens_of_its_prompt_alone(tiny_tokenizer, write, prompt, completion, joins):
    """Generation has no others: a token that joined both would never be learned, or never be prompted with."""
    lines = Lines(write([{"prompt": prompt, "completion": completion}]))
    (example,) = Encoder(lines, tiny_tokenizer, 100)(0)
    assert example.tokens[~example.learned].tolist() == tiny_tokenizer.encode(prompt)
    assert said(example, tiny_tokenizer) == f"{completion}<|endoftext|>"
    assert (example.tokens[:-1].tolist() != tiny_tokenizer.encode(prompt + completion)) == joins


@pytest.mark.parametrize("content", ["Anna", " Anna", "\n\nAnna"])
@pytest.mark.parametrize("begun", ["", "\n", "\n\n"])
def test_a_turn_is_learned_after_the_tokens_that_begin_it_alone(talking, write, content, begun):
    talking.chat_template = TEMPLATE.replace("assistant>", f"assistant>{{{{ {begun!r} }}}}").replace(
        "{{ message.content", f"{{{{ {begun!r} if message.role == 'assistant' }}}}{{{{ message.content"
    )
    line = {"prompt": TALK[:3], "completion": [TALK[3] | {"content": content}]}
    (example,) = Encoder(Lines(write([line])), talking, 100)(0)
    assert example.tokens[~example.learned].tolist() == talking.encode(template_of(talking)(TALK[:3], True))
    assert said(example, talking) == f"{content}<|endoftext|>"
    (both,) = Encoder(Lines(write([{"messages": [*TALK[:3], TALK[3] | {"content": content}]}])), talking, 100)(0)
    assert said(both, talking) == f"By the café.<|endoftext|>{content}<|endoftext|>"
    (last,) = np.flatnonzero(np.diff(both.learned.astype(int)) == 1)[-1:]
    ahead = example.tokens[~example.learned][-8:]
    assert both.tokens[last + 1 - len(ahead) : last + 1].tolist() == ahead.tolist()


def test_a_space_that_a_tokenizer_puts_before_a_text_is_not_put_before_a_completion(tmp_path):
    vocab = {token: i for i, token in enumerate(["<s>", *"abn:", "\n", "▁", "▁a", "\n\n"])}
    own = tokenizers.Tokenizer(models.BPE(vocab, [("▁", "a"), ("\n", "\n")]))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.add_special_tokens(["<s>"])
    own.save(str(tmp_path / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    tokenizer = load_tokenizer(tmp_path)
    for prompt, completion, tokens in (("b: ", "an", ["a", "n"]), ("b\n", "\nan", ["\n", "a", "n"])):
        whole = prompt + completion
        example = encode(Learned(whole, ((len(prompt), len(whole)),), True, True), tokenizer)
        assert example.tokens[~example.learned].tolist() == tokenizer.encode(prompt)
        assert tokenizer.auto.convert_ids_to_tokens(example.tokens[example.learned].tolist()) == [*tokens, "<s>"]


def test_a_plain_text_has_the_token_that_the_tokenizer_adds_in_front_once(write):
    beginning = adds_a()
    examples = [{"text": "the hill"}, {"prompt": "the", "completion": " hill"}, {"text": "A hill"}, {"messages": TALK}]
    beginning.chat_template = TEMPLATE
    found = Encoder(Lines(write(examples)), beginning, 100).sample(range(4)).examples
    texts = [beginning.decode(example.tokens) for example in found]
    assert texts[:3] == ["Athe hill<|endoftext|>", "Athe hill<|endoftext|>", "A hill<|endoftext|>"]
    assert texts[3].startswith("<user>Where is")  # a template writes its own
    assert [said(example, beginning) for example in found[:2]] == ["the hill<|endoftext|>", " hill<|endoftext|>"]


def test_a_conversation_whose_last_turn_ends_in_mere_text_gets_an_end_token(talking, write):
    """Nothing else would teach the model to end. The turns before are as the template writes them."""
    talking.chat_template = TEMPLATE.replace("<|endoftext|>", "</>\n")
    examples = [{"messages": TALK}, {"messages": TALK[:3]}]
    whole, asked = Encoder(Lines(write(examples)), talking, 100).sample(range(2)).examples
    assert said(whole, talking) == "By the café.</>\nBehind it.</>\n<|endoftext|>"
    assert said(asked, talking) == "By the café.</>\n"


def test_each_turn_of_a_template_that_writes_the_last_one_in_another_way_is_an_example(talking, write):
    talking.chat_template = TEMPLATE.replace(
        "{{ message.content }}", "{{ '!' if loop.last and loop.index % 2 == 0 }}{{ message.content }}"
    )
    first, second = Encoder(Lines(write([{"messages": TALK}])), talking, 100)(0)
    assert (said(first, talking), said(second, talking)) == ("!By the café.<|endoftext|>", "!Behind it.<|endoftext|>")
    assert talking.decode(second.tokens).startswith("<user>Where is the river?<|endoftext|><assistant>By the")


def test_what_is_too_long_is_cut_and_left_out_if_nothing_is_left_to_learn(tiny_tokenizer, write):
    examples = [{"prompt": "a b c d", "completion": " e f g h"}, {"prompt": "a " * 30, "completion": "b"}]
    lines = Lines(write(examples))
    (whole,), (cut,) = (Encoder(lines, tiny_tokenizer, most)(0) for most in (100, 6))
    assert cut.tokens.tolist() == whole.tokens[:6].tolist()
    assert Encoder(lines, tiny_tokenizer, 6)(1) == []
    assert Encoder(lines, tiny_tokenizer, 6).sample(range(2))[1:] == (1, 1)
    assert Encoder(lines, tiny_tokenizer, 100).sample(range(2))[1:] == (0, 0)


def test_a_wrong_line_is_named_with_its_file_and_number(tiny_tokenizer, write):
    lines = Lines(write([{"text": "a b"}, {"text": 3}, {"messages": TALK}]))
    encode_line = Encoder(lines, tiny_tokenizer, 100)
    for number, message in ((2, "'text' is a number"), (3, "no chat template; name a file with one in config.data")):
        with pytest.raises(UserError, match=rf"chat.jsonl, line {number}: .*{message}"):
            encode_line(number - 1)
    with pytest.raises(UserError, match=r"chat.jsonl, line 2: 'text' is a number"):
        encode_line.check(range(3))
    encode_line.check([0, 2])


def test_a_template_that_fails_is_named(talking, write):
    talking.chat_template = "{{ raise_exception('no system') }}"
    encode_line = Encoder(Lines(write([{"messages": TALK}])), talking, 100)
    with pytest.raises(UserError, match="line 1: the chat template refuses it: no system"):
        encode_line(0)


def test_a_tokenizer_of_python_alone_is_refused(talking, write):
    talking._backend = PythonBackend(talking.auto)
    with pytest.raises(UserError, match=r"line 1: the tokenizer in assets/tiny has no fast version in transformers"):
        Encoder(Lines(write([{"text": "a b"}])), talking, 100)(0)


def test_a_token_that_the_model_lacks_is_refused_where_it_comes(tiny_tokenizer, write):
    encode_line = Encoder(Lines(write([{"text": "a b"}])), tiny_tokenizer, 100)
    encode_line.vocab_size = int(encode_line(0)[0].tokens.max())
    with pytest.raises(UserError, match=r"line 1: it has the token .*, which was added to the tokenizer"):
        encode_line(0)
    encode_line.vocab_size += 1
    encode_line(0)


def test_turns_predict_what_is_learned_and_nothing_else(talking, write):
    examples = [{"messages": TALK}, {"prompt": "one two", "completion": " three"}, {"text": "four five"}]
    encode_line = Encoder(Lines(write(examples)), talking, 100)
    encoded = encode_line.sample(range(3)).examples
    turns = Turns.of(encoded)
    assert turns.slots.tolist() == [int(example.learned[1:].sum()) for example in encoded]
    batch = Batches(turns.take(np.array([2, 0])), Batching(2, slot_multiple=1, shuffle=False))[0]
    labels = np.concatenate([encoded[i].tokens[1:][encoded[i].learned[1:]] for i in (0, 2)])
    np.testing.assert_array_equal(batch["labels"][batch["weights"] > 0], labels)
