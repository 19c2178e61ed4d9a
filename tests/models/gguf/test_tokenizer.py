"""Tokenizers from GGUF metadata, loaded as a user loads them, against the tokenizers that they were written from."""

import itertools
import json

import numpy as np
import pytest

from hut_jax import UserError
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.models.gguf.fields import Fields
from hut_jax.models.gguf.header import Header
from hut_jax.models.gguf.tokenizer import read_tokenizer
from tests.gguf_files import ROOT, tiny_tokenizer

TEXTS = ("Zizzi is a pub near Café Adriatic.", "  two  spaces\n\n\tand 1234 5's ☃ Straße ﬁ", "", "<|endoftext|> x")


def read(tmp_path, fields, architecture="llama"):
    """The tokenizer of this metadata, as `load_tokenizer` reads it from the files that are written."""
    named = {name[1:] if name.startswith(".") else f"{architecture}.{name}": value for name, value in fields.items()}
    named |= {"general.architecture": architecture, f"{architecture}.context_length": 64}
    tokenizer, settings = read_tokenizer(Fields(Header(tmp_path / "model.gguf", b"", named, {})))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(tmp_path)


def tiny(**fields):
    return array_types(tiny_tokenizer(**fields))


def array_types(fields):
    """The metadata as the header's reader gives them: numbers in arrays."""
    numbers = {
        name: value for name, value in fields.items() if isinstance(value, list) and not isinstance(value[0], str)
    }
    return {**fields, **{name: np.array(value) for name, value in numbers.items()}}


def test_a_byte_level_tokenizer_has_the_tokens_of_its_model(tmp_path):
    ours, theirs = read(tmp_path, tiny()), load_tokenizer(ROOT / "assets/tiny")
    assert ours.encode_batch(TEXTS) == theirs.encode_batch(TEXTS)
    assert [ours.decode(ids) for ids in ours.encode_batch(TEXTS)] == [*TEXTS]
    assert (ours.eos_id, ours.vocab_size) == (theirs.eos_id, theirs.vocab_size)


TEXT = "We're at 12345 CamelCase  IT'S\n x"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", "We|'re| at| 12345| CamelCase| | IT|'|S|\n| x"),
        ("smollm", "We|'re| at| |1|2|3|4|5| CamelCase| | IT|'|S|\n| x"),
        ("llama-bpe", "We|'re| at| |123|45| CamelCase| | IT|'S|\n| x"),
        ("smaug-bpe", "We|'re| at| |123|45| CamelCase| | IT|'S|\n| x"),
        ("qwen2", "We|'re| at| |1|2|3|4|5| CamelCase| | IT|'S|\n| x"),
        ("gpt-4o", "We're| at| |123|45| Camel|Case| | IT'S|\n| x"),
        ("tekken", "We|'re| at| |1|2|3|4|5| Camel|Case| | IT|'S|\n| x"),
    ],
)
def test_every_kind_splits_a_text_in_its_own_way(tmp_path, name, expected):
    backend = read(tmp_path, tiny(**{".tokenizer.ggml.pre": name})).auto.backend_tokenizer
    pieces = backend.pre_tokenizer.pre_tokenize_str(TEXT)
    assert "|".join(TEXT[start:end] for _, (start, end) in pieces) == expected


def test_qwen_composes_letters_and_llama_3_takes_whole_words(tmp_path):
    plain, qwen = read(tmp_path, tiny()), read(tmp_path, tiny(**{".tokenizer.ggml.pre": "qwen2"}))
    assert qwen.encode("e\u0301") == qwen.encode("\u00e9") != plain.encode("e\u0301")
    fields = tiny()
    word = {
        ".tokenizer.ggml.tokens": [*fields[".tokenizer.ggml.tokens"], "xylophone"],
        ".tokenizer.ggml.token_type": [*fields[".tokenizer.ggml.token_type"].tolist(), 1],
    }
    (one,) = read(tmp_path, array_types(fields | word | {".tokenizer.ggml.pre": "llama-bpe"})).encode("xylophone")
    assert one == 2048
    assert len(read(tmp_path, array_types(fields | word)).encode("xylophone")) > 1


def test_tokens_that_mark_are_whole_and_fillers_are_none(tmp_path):
    fields = tiny()
    tokens, kinds = fields[".tokenizer.ggml.tokens"], fields[".tokenizer.ggml.token_type"].tolist()
    more = {"<|im_end|>": 3, "<think>": 4, "  ": 4, "<|tool|>": 3, "[PAD2052]": 5, "[PAD2053]": 5}
    fields |= {".tokenizer.ggml.tokens": [*tokens, *more], ".tokenizer.ggml.token_type": [*kinds, *more.values()]}
    fields |= {".tokenizer.chat_template": "{{ messages }}", ".tokenizer.ggml.padding_token_id": 2048}
    tokenizer = read(tmp_path, array_types(fields))
    assert tokenizer.encode("<|im_end|><think>   ") == [2048, 2049, 2050, *tokenizer.encode(" ")]
    assert tokenizer.decode([2048, 2049, 2050]) == "<|im_end|><think>  "
    assert tokenizer.encode("x<|tool|>") == [*tokenizer.encode("x"), 2051]
    assert tokenizer.missing(2054) == (2052, 2053)
    assert tokenizer.special("pad") == 2048
    assert tokenizer.auto.chat_template == "{{ messages }}"
    assert tokenizer.auto.all_special_tokens.count("<think>") == 0


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
KINDS = [2, 3, 3, *[6] * 256]
LETTERS = ["\u2581", "t", "h", "e", "a", "n", "d", "r", "ü"]
JOINT = [
    "\u2581t",
    "he",
    "\u2581a",
    "the",
    "\u2581the",
    "nd",
    "an",
    "and",
    "\u2581and",
    "er",
    "ther",
    "her",
    "re",
    "dr",
]


def sentencepiece(**fields):
    joint = [-float(i) for i in range(len(JOINT))]
    return array_types(
        {
            ".tokenizer.ggml.model": "llama",
            ".tokenizer.ggml.pre": "default",
            ".tokenizer.ggml.tokens": [*PIECES, *JOINT, *LETTERS],
            ".tokenizer.ggml.token_type": [*KINDS, *[1] * (len(JOINT) + len(LETTERS))],
            ".tokenizer.ggml.scores": [0.0] * len(PIECES) + joint + [-1000.0 - i for i in range(len(LETTERS))],
            ".tokenizer.ggml.bos_token_id": 1,
            ".tokenizer.ggml.eos_token_id": 2,
            ".tokenizer.ggml.unknown_token_id": 0,
            **fields,
        }
    )


def joined(text):
    """SentencePiece's tokens by definition: join the neighbours whose joint piece scores best, the first at a tie."""
    pieces = [*text.replace(" ", "\u2581")]
    while True:
        joints = [(JOINT.index(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in JOINT]
        if not joints:
            break
        _, i = min(joints)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    known = [*PIECES, *JOINT, *LETTERS]
    bytes_ = {piece: [known.index(f"<0x{byte:02X}>") for byte in piece.encode()] for piece in pieces}
    return [i for piece in pieces for i in ([known.index(piece)] if piece in known else bytes_[piece])]


@pytest.mark.parametrize("text", ["the and another", "thereand dreher", " and  the", "ü☃ anthe", "herethandre", ""])
def test_a_sentencepiece_tokenizer_joins_by_score(tmp_path, text):
    tokenizer = read(tmp_path, sentencepiece())
    assert tokenizer.encode(text) == (joined(f" {text}") if text else [])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    bare = read(tmp_path, sentencepiece(**{".tokenizer.ggml.add_space_prefix": False}))
    assert bare.encode(text) == joined(text)
    assert bare.decode(bare.encode(text)) == text


def test_a_text_is_framed_as_the_file_asks(tmp_path):
    def frame(fields):
        return read(tmp_path, fields).encode_texts([("a", "a"), ("a",)], 9).ids

    (one,) = read(tmp_path, tiny()).encode("a")
    add = {".tokenizer.ggml.add_bos_token": True, ".tokenizer.ggml.bos_token_id": 5}
    assert frame(tiny()) == frame(tiny(**{".tokenizer.ggml.bos_token_id": 5})) == [[one, one], [one]]
    assert frame(tiny(**add)) == [[5, one, 5, one], [5, one]]
    assert frame(tiny(**add, **{".tokenizer.ggml.add_eos_token": True})) == [[5, one, 0, 5, one, 0], [5, one, 0]]
    assert frame(tiny(**{".tokenizer.ggml.pre": "llama-bpe", ".tokenizer.ggml.bos_token_id": 5})) == [
        [5, one] * 2,
        [5, one],
    ]
    a = LETTERS.index("a") + len(PIECES) + len(JOINT)
    bare = {".tokenizer.ggml.add_space_prefix": False}
    assert frame(sentencepiece(**bare)) == [[1, a, 1, a], [1, a]]
    assert frame(sentencepiece(**bare, **{".tokenizer.ggml.add_bos_token": False})) == [[a, a], [a]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({".tokenizer.ggml.model": "bert"}, "a tokenizer of the kind 'bert' is not supported; .*--no-tokenizer"),
        ({".tokenizer.ggml.pre": "chameleon"}, "tokenizer.ggml.pre: 'chameleon'.*--no-tokenizer"),
        ({".tokenizer.ggml.merges": ["a"]}, "must be pairs with a space between"),
        ({".tokenizer.ggml.merges": ["☃ ☃"]}, "its tokenizer cannot be made: .*out of vocabulary"),
        ({".tokenizer.ggml.token_type": [1, 2]}, "token_type must be a list of 2048 numbers"),
        ({".tokenizer.ggml.tokens": 3}, "tokens must be a list of texts, not 3"),
        (
            {".tokenizer.ggml.add_bos_token": 1, ".tokenizer.ggml.bos_token_id": 1},
            "add_bos_token must be true or false",
        ),
        ({".tokenizer.ggml.model": "llama"}, "its metadata lack tokenizer.ggml.scores"),
        (
            {
                ".tokenizer.ggml.model": "llama",
                ".tokenizer.ggml.tokens": ["a" * 600],
                ".tokenizer.ggml.token_type": [1],
                ".tokenizer.ggml.scores": [0.0],
                ".tokenizer.ggml.eos_token_id": 0,
            },
            "a token of 600 characters",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, array_types(tiny_tokenizer(**fields)))
    assert str(caught.value).startswith(f"{tmp_path / 'model.gguf'}: ")
    assert "\n" not in str(caught.value)
