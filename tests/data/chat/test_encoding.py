import numpy as np
import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batches, Batching
from hut_jax.data.chat.encoding import Encoder, Turns, encode
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.turns import Learned
from hut_jax.data.python_backend import PythonBackend

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
    example = encode_line(0)
    assert said(example, talking) == "By the café.<|endoftext|>Behind it.<|endoftext|>"
    whole = "".join(f"<{one['role']}>{one['content']}<|endoftext|>" for one in TALK)
    assert talking.decode(example.tokens) == whole
    assert example.tokens.tolist() == talking.encode(whole)


def test_a_completion_and_a_text_end_with_an_end_token(tiny_tokenizer):
    example = encode(Learned("The river: by the café", ((10, 22),), True), tiny_tokenizer)
    assert said(example, tiny_tokenizer) == " by the café<|endoftext|>"
    assert example.tokens[-1] == tiny_tokenizer.eos_id


def test_what_is_too_long_is_cut_and_left_out_if_nothing_is_left_to_learn(tiny_tokenizer, write):
    examples = [{"prompt": "a b c d", "completion": " e f g h"}, {"prompt": "a " * 30, "completion": "b"}]
    lines = Lines(write(examples))
    whole, cut = (Encoder(lines, tiny_tokenizer, most)(0) for most in (100, 6))
    assert cut.tokens.tolist() == whole.tokens[:6].tolist()
    assert Encoder(lines, tiny_tokenizer, 6)(1) is None


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
    encode_line.vocab_size = int(encode_line(0).tokens.max())
    with pytest.raises(UserError, match=r"line 1: it has the token .*, which was added to the tokenizer"):
        encode_line(0)
    encode_line.vocab_size += 1
    encode_line(0)


def test_turns_predict_what_is_learned_and_nothing_else(talking, write):
    examples = [{"messages": TALK}, {"prompt": "one two", "completion": " three"}, {"text": "four five"}]
    encode_line = Encoder(Lines(write(examples)), talking, 100)
    encoded = [encode_line(index) for index in range(3)]
    turns = Turns.of(encoded)
    assert turns.slots.tolist() == [int(example.learned[1:].sum()) for example in encoded]
    batch = Batches(turns.take(np.array([2, 0])), Batching(2, slot_multiple=1, shuffle=False))[0]
    labels = np.concatenate([encoded[i].tokens[1:][encoded[i].learned[1:]] for i in (0, 2)])
    np.testing.assert_array_equal(batch["labels"][batch["weights"] > 0], labels)
