import functools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.tokenizer import END_OF_TEXT, load_tokenizer

ROOT = Path(__file__).parents[2]
loaded = functools.cache(load_tokenizer)

STRINGS = [
    "",
    " ",
    "\n\n\n",
    "  two  spaces   three\t\ttabs \n \n end ",
    "it's we'll I'd they've DON'T",
    "name[Café Adriatic], priceRange[£20-25], near[北京 店]",
    "1234567 3.14 $%^&*() __init__ -->",
    "naïve e\u0301 \u200d👩\u200d👩\u200d👧 🇬🇧 \ufeff\u00a0\u2003x",
    "\x00\x01\x1c\x7f\x85",
    "مرحبا Ελλάδα हिन्दी",
    f"{END_OF_TEXT} here and {END_OF_TEXT}{END_OF_TEXT}there<|endof text|> ",
]


def copy_of(folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


@pytest.fixture
def tiny(request, tmp_path):
    return copy_of(request.config.rootpath / "assets" / "tiny", tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_decoding_undoes_encoding(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


@given(st.lists(st.sampled_from(["a", " b", END_OF_TEXT, "\n", "<|end"]), max_size=6).map("".join))
def test_end_of_text_is_special_only_when_asked(tiny_tokenizer, text):
    eos = tiny_tokenizer.eos_id
    assert eos not in tiny_tokenizer.encode(text)
    parsed = tiny_tokenizer.encode(text, parse_special=True)
    assert parsed.count(eos) == text.count(END_OF_TEXT)
    assert tiny_tokenizer.decode(parsed) == text


def test_a_batch_is_its_texts_one_by_one(tiny_tokenizer):
    for special in (False, True):
        one_by_one = [tiny_tokenizer.encode(text, parse_special=special) for text in STRINGS]
        assert tiny_tokenizer.encode_batch(STRINGS, parse_special=special) == one_by_one


def test_decode_replaces_broken_bytes_and_refuses_unknown_ids(tiny_tokenizer):
    ids = tiny_tokenizer.encode("é")
    bytes_of = tiny_tokenizer.encode("\x80")  # two bytes, of which the second alone is no UTF-8
    assert "\ufffd" in tiny_tokenizer.decode([*ids, bytes_of[-1]])
    with pytest.raises(UserError, match=r"token id 2048 .* 0 to 2047"):
        tiny_tokenizer.decode([2048])


def test_saved_and_loaded_is_the_same(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path / "both")
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    (tmp_path / "json").mkdir()
    (tmp_path / "both" / "tokenizer.json").rename(tmp_path / "json" / "tokenizer.json")
    for folder in ("both", "json"):  # from vocab.json and merges.txt, and from tokenizer.json alone
        again = load_tokenizer(tmp_path / folder)
        assert again.encode_batch(STRINGS) == tiny_tokenizer.encode_batch(STRINGS)
        assert again.eos_id == tiny_tokenizer.eos_id
        assert again.vocab_size == tiny_tokenizer.vocab_size == 2048


def damaged(folder, name, change):
    path = folder / name
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(vocab_text, token):
    vocab = json.loads(vocab_text)
    del vocab[token]
    return json.dumps({key: index for index, key in enumerate(vocab)})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vocab.json", lambda text: text[:50], "vocab.json, line 1: malformed JSON"),
        ("vocab.json", lambda text: "[1, 2]", "a JSON object of token to id"),
        ("vocab.json", lambda text: text.replace(": 2047", ": 3000"), "should be 0 to 2047, each once"),
        ("vocab.json", lambda text: without(text, END_OF_TEXT), "has no '<|endoftext|>' among its 2047 tokens"),
        ("vocab.json", lambda text: without(text, "~"), "lacks 1 of the 256 byte tokens, '~'"),
        ("merges.txt", lambda text: text.replace("\n", "\na b c\n", 1), "merges.txt, line 2: a merge is two tokens"),
        ("merges.txt", lambda text: text + "never seen\n", "merges and vocabulary do not fit"),
    ],
)
def test_damaged_files_are_named(tiny, name, change, message):
    assert message in damaged(tiny, name, change)


def test_what_is_missing_is_said(tiny, tmp_path, monkeypatch):
    (tiny / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"wanted vocab\.json and merges\.txt, or tokenizer\.json; found vocab\.json$"):
        load_tokenizer(tiny)
    with pytest.raises(UserError, match=r"no tokenizer folder 'no such/ folder', and that is no hub name"):
        load_tokenizer("no such/ folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"no hub name either that can be reached or is in the hub's cache") as caught:
        load_tokenizer("hut-jax-tests/is-in-no-cache")
    assert "\n" not in str(caught.value)


def test_another_kind_of_tokenizer_json_is_refused(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    data["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="no byte-level BPE"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a tokenizer's JSON"):
        load_tokenizer(tmp_path)


@pytest.fixture(scope="module", params=["tiny", "gpt2"])
def folder(request):
    """The embedded tokenizer's folder and GPT-2's."""
    return ROOT / "assets/tiny" if request.param == "tiny" else request.getfixturevalue("gpt2_folder")


@pytest.fixture(scope="module")
def peer(folder):
    return pytest.importorskip("transformers").GPT2Tokenizer.from_pretrained(folder)


@pytest.mark.peers
def test_tokens_are_those_of_transformers(folder, peer, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = load_tokenizer(folder)
    if folder.name == "gpt2":
        assert (ours.eos_id, ours.vocab_size) == (50256, 50257)
    ours.save(tmp_path)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert saved.eos_token_id == ours.eos_id
    assert len(saved) == ours.vocab_size
    for reference in (saved, peer):
        wanted = [reference(text)["input_ids"] for text in STRINGS]
        assert ours.encode_batch(STRINGS, parse_special=True) == wanted
        assert len(set(map(tuple, wanted))) == len(STRINGS)
        assert ours.encode_batch(STRINGS, parse_special=False) != wanted  # the last text has special tokens
        for text in STRINGS:
            ids = ours.encode(text)
            assert ours.decode(ids) == reference.decode(ids) == text


@pytest.mark.peers
@settings(deadline=None)
@given(st.text())
def test_any_text_as_transformers_encodes_it(folder, peer, text):
    assert loaded(folder).encode(text, parse_special=True) == peer(text)["input_ids"]
