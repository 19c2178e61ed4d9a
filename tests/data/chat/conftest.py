import json

import pytest
from tokenizers import processors

from hut_jax.data.tokenizer import load_tokenizer

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def write(tmp_path_factory):
    """A function that writes examples as a JSONL file."""

    def write_examples(examples):
        path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
        path.write_text("".join(f"{json.dumps(example)}\n" for example in examples), encoding="utf-8")
        return path

    return write_examples


def adds_a():
    """The tiny tokenizer, which adds the token 'A' in front of a text, as Llama 3's adds one."""
    tokenizer = load_tokenizer("assets/tiny")
    (begin,) = tokenizer.encode("A")
    tokenizer.auto.backend_tokenizer.post_processor = processors.TemplateProcessing("A $A", "A $A $B", [("A", begin)])
    return tokenizer


@pytest.fixture
def talking():
    """The tiny tokenizer with a chat template."""
    tokenizer = load_tokenizer("assets/tiny")
    tokenizer.chat_template = TEMPLATE
    return tokenizer
