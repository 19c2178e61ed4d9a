"""A tokenizer that transformers writes in Python alone: the same methods, its own frame, the same cuts."""

import importlib.util

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.tokenizer import load_tokenizer
from tests.data.conftest import phobert


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phobert")
    phobert(folder)
    return load_tokenizer(folder, "cls", "sep", "pad", "mask")


def test_the_ids_are_those_of_the_files(tokenizer):
    # <s>, <pad>, </s> and <unk> come before the words of vocab.txt, and <mask> after.
    assert tokenizer.encode("hello the world") == [4, 5, 18, 6, 7]
    assert tokenizer.encode("? the</s>") == [3, 18, 2]
    assert (tokenizer.eos_id, tokenizer.vocab_size, tokenizer.missing(21)) == (2, 20, (20,))


def test_what_is_no_token_is_left_out(tokenizer):
    assert tokenizer.decode([4, 5, 99, 18]) == "hello the"


def test_pairs_have_their_frame_and_the_longer_text_loses_its_end(tokenizer):
    hello, the, world = [4, 5], [18], [6, 7]
    texts = [("hello the world",), ("the", "hello the world")]
    whole = tokenizer.encode_texts(texts, 100)
    assert whole.ids == [[0, *hello, *the, *world, 2], [0, *the, 2, 2, *hello, *the, *world, 2]]
    assert (whole.types, whole.truncated) == ([[0] * 7, [0] * 10], 0)
    cut = tokenizer.encode_texts(texts, 7)
    assert (cut.ids, cut.truncated) == ([[0, *hello, *the, *world, 2], [0, *the, 2, 2, *hello, 2]], 1)
    assert tokenizer.encode_texts([("hello", "hello")], 7).ids == [[0, *hello, 2, 2, 4, 2]]


def test_a_file_of_sentencepiece_asks_for_its_package(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install sentencepiece protobuf"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.bpe.model"])
def test_files_that_the_class_does_not_read_are_told(name, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importlib.util)
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r'no tokens but special ones in .*"tokenizer_class"|cannot read the tok'):
        load_tokenizer(tmp_path)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.txt", "bpe.codes", "tokenizer_config.json"}
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
