"""Tokenizers that have no tokenizer.json, against transformers on the same folder: the same tokens."""

import json

import pytest

from hut_jax.data.tokenizer import load_tokenizer
from tests.data.conftest import phobert

pytestmark = pytest.mark.peers
transformers = pytest.importorskip("transformers")
convert = pytest.importorskip("transformers.convert_slow_tokenizer")
pytest.importorskip("sentencepiece")

PAIRS = [("hello the world", "the a the a hello"), ("a", "the hello world world"), ("Hello</s>  w\u00f6rld\n", "a")]
TEXTS = [text for pair in PAIRS for text in pair]


def sentencepiece(folder):
    """A tokenizer.model of bytes and a few merges, as Llama's first ones are."""
    model = convert.import_protobuf().ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
    model.normalizer_spec.add_dummy_prefix, model.normalizer_spec.remove_extra_whitespaces = True, False
    for name, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        model.pieces.add(piece=name, score=0.0, type=kind)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=6)
    merged = ["he", "ll", "hell", "hello", "\u2581hello", "\u2581a", "\u2581t", "\u2581the", "\u2581w", "ld"]
    for rank, piece in enumerate([*merged, *"\u2581abcdehlortw"]):
        model.pieces.add(piece=piece, score=-float(rank), type=1)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("make", [sentencepiece, phobert])
def test_texts_and_pairs_have_transformers_tokens(make, tmp_path):
    make(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encode_batch(TEXTS) == [theirs(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert ours.encode("hello") != ours.encode("a hello")[:1]
    for length in (7, 9, 100):
        expected = [theirs(*pair, truncation="longest_first", max_length=length).input_ids for pair in PAIRS]
        assert ours.encode_texts(PAIRS, length).ids == expected
    assert ours.decode(ours.encode("hello the world")).strip() == "hello the world"


def test_a_tokenizer_model_alone_is_llamas(tmp_path):
    sentencepiece(tmp_path)
    named = load_tokenizer(tmp_path).encode_batch(TEXTS)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).encode_batch(TEXTS) == named
    load_tokenizer(tmp_path).save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode_batch(TEXTS) == named
