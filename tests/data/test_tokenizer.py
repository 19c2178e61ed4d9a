"""The tokenizer that transformers finds: batches, frames and special tokens, saving, and what is refused."""

import json
import pickle
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.tokenizer import load_tokenizer
from tests.data.conftest import BERT_VOCAB, TINY

END = "<|endoftext|>"


def settings_of(folder, **values):
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def copied(made, kind, tmp_path, **values):
    folder = shutil.copytree(made / kind, tmp_path / kind)
    return settings_of(folder, **values) if values else folder


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_decoding_undoes_encoding(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


@given(st.lists(st.sampled_from(["a", " b", END, "\n", "<|end"]), max_size=6).map("".join))
def test_a_special_token_that_a_text_spells_out_is_that_token(tiny_tokenizer, text):
    ids = tiny_tokenizer.encode(text)
    assert ids.count(tiny_tokenizer.eos_id) == text.count(END)
    assert tiny_tokenizer.decode(ids) == text
    assert tiny_tokenizer.encode_batch([text, "a", text]) == [ids, tiny_tokenizer.encode("a"), ids]


def test_unless_its_settings_say_that_text_is_text(made, tmp_path):
    tokenizer = load_tokenizer(copied(made, "gpt2", tmp_path, split_special_tokens=True))
    assert tokenizer.eos_id not in tokenizer.encode(f"a {END} b")
    assert tokenizer.decode(tokenizer.encode(f"a {END} b")) == f"a {END} b"


def test_decode_replaces_broken_bytes_and_leaves_out_what_is_no_token(tiny_tokenizer):
    ids = tiny_tokenizer.encode("é")
    bytes_of = tiny_tokenizer.encode("\x80")  # two bytes, of which the second alone is no UTF-8
    assert "\ufffd" in tiny_tokenizer.decode([*ids, bytes_of[-1]])
    assert tiny_tokenizer.decode([*ids, 2048, 5000]) == "é"
    assert tiny_tokenizer.missing(2048) == ()
    assert tiny_tokenizer.missing(2051) == (2048, 2049, 2050)


def test_roberta_puts_two_ends_between_texts_and_one_type_on_all(roberta):
    a, b = roberta.encode_batch(["a cat", " on a mat"])
    assert roberta.encode_texts([("a cat",), ("a cat", " on a mat")], 100) == (
        [[0, *a, 2], [0, *a, 2, 2, *b, 2]],
        [[0] * (len(a) + 2), [0] * (len(a) + len(b) + 4)],
        0,
    )
    assert [roberta.special(role) for role in ("cls", "pad", "sep", "eos", "mask")] == [0, 1, 2, 2, 2052]
    assert (roberta.eos_id, roberta.vocab_size) == (2, 2053)


def test_bert_puts_one_end_between_texts_and_type_one_on_the_second(bert):
    the, cat, s = (BERT_VOCAB.index(token) for token in ("the", "cat", "##s"))
    assert bert.encode_texts([("The",), ("the", "Cats")], 100) == (
        [[2, the, 3], [2, the, 3, cat, s, 3]],
        [[0, 0, 0], [0, 0, 0, 1, 1, 1]],
        0,
    )
    assert [bert.special(role) for role in ("pad", "cls", "sep", "mask")] == [0, 2, 3, 4]
    assert (bert.eos_id, bert.vocab_size) == (3, len(BERT_VOCAB))
    assert bert.decode([2, the, cat, s]) == "[CLS] the cats"


@given(st.integers(0, 12), st.integers(0, 12), st.integers(6, 20))
def test_the_longer_text_loses_its_end_first(roberta, first, second, max_length):
    encoded = roberta.encode_texts([(" a" * first, " a" * second)], max_length)
    (ids,) = encoded.ids
    kept = ids.index(2) - 1, len(ids) - ids.index(2) - 3
    keep = [first, second]
    while sum(keep) > max_length - 4:
        keep[keep.index(max(keep))] -= 1
    # Where an odd number is left to two texts that are both cut, either may have the one more.
    assert sorted(kept) == sorted(keep)
    assert kept[0] <= first
    assert kept[1] <= second
    assert encoded.truncated == (first + second > max_length - 4)


def test_a_length_without_room_for_the_texts_is_refused(roberta, bert):
    for tokenizer, pair in ((roberta, 6), (bert, 5)):
        assert len(tokenizer.encode_texts([("a b", "a b")], pair).ids[0]) == pair
        with pytest.raises(
            UserError, match=rf"max_length is {pair - 1}; special tokens and one of each text take {pair}"
        ):
            tokenizer.encode_texts([("a b", "a b")], pair - 1)
        with pytest.raises(UserError, match=r"max_length is 2; .* take 3"):
            tokenizer.encode_texts([("a b",)], 2)
        assert len(tokenizer.encode("a b " * 20)) > pair  # the cut is of that call alone


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "bert"])
def test_saved_and_loaded_is_the_same(kind, made, tmp_path):
    tokenizer = load_tokenizer(made / kind)
    texts = ["A cat É.", "on the <mask>", f" x [SEP] </s> {END}" * 20]
    tokenizer.auto.save_pretrained(tmp_path / "theirs")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "theirs/tokenizer.json", tmp_path / "alone")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/vocab.txt").write_text("of another tokenizer")
    (tmp_path / "ours/tokenizer.json").write_text("of another tokenizer")
    tokenizer.save(tmp_path / "ours")
    tokenizer.save(made / kind)  # onto itself: nothing
    for folder in ("ours", "theirs", "alone"):
        again = load_tokenizer(tmp_path / folder)
        assert again.encode_batch(texts) == tokenizer.encode_batch(texts), folder
        assert (again.eos_id, again.vocab_size) == (tokenizer.eos_id, tokenizer.vocab_size), folder
        if kind != "gpt2":
            pairs = [("A cat.", "on the mat"), ("", "x" * 120)]
            assert again.encode_texts(pairs, 30) == tokenizer.encode_texts(pairs, 30), folder
            assert [again.special(one) for one in ("cls", "pad", "mask")] == [
                tokenizer.special(one) for one in ("cls", "pad", "mask")
            ]


def test_several_chat_templates_are_saved(made, tmp_path):
    folder = copied(made, "gpt2", tmp_path)
    (folder / "additional_chat_templates").mkdir()
    templates = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    (folder / "chat_template.jinja").write_text(templates["default"])
    (folder / "additional_chat_templates/tools.jinja").write_text(templates["tools"])
    load_tokenizer(folder).save(tmp_path / "saved")
    assert (
        load_tokenizer(folder).auto.chat_template == load_tokenizer(tmp_path / "saved").auto.chat_template == templates
    )
    load_tokenizer(made / "gpt2").save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").auto.chat_template is None


def test_a_folder_that_cannot_be_written_is_told(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the tokenizer to .*file/merged: Not a directory"):
        load_tokenizer(made / "bert").save(tmp_path / "file/merged")


def test_what_a_tokenizer_json_cuts_and_pads_does_not_count(made, tmp_path):
    tokenizer = load_tokenizer(made / "bert")
    tokenizer.auto.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    again = load_tokenizer(tmp_path)
    assert again.encode_batch(["the cat the cat"]) == tokenizer.encode_batch(["the cat the cat"])
    assert again.encode_texts([("the cat the cat",)], 40) == tokenizer.encode_texts([("the cat the cat",)], 40)


def test_nothing_outside_the_folder_is_read_and_no_code_is_run(made, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    plain = load_tokenizer(made / "bert")
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{token}\n" for token in [*BERT_VOCAB[:5], *reversed(BERT_VOCAB[5:])]))
    names = ("vocab_file", "tokenizer_file", "special_tokens_map_file", "vocab", "init_inputs")
    outside = dict.fromkeys(names, str(other)) | {"init_inputs": [str(other)]}
    folder = copied(made, "bert", tmp_path, tokenizer_class="BertTokenizer", **outside)
    (folder / "special_tokens_map.json").write_text(json.dumps(outside))
    assert load_tokenizer(folder).encode("the cats") == plain.encode("the cats")

    (folder / "code.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    for name in ("tokenizer_config.json", "config.json"):
        values = {"model_type": "theirs", "auto_map": {"AutoTokenizer": ["code.T", "code.T"], "AutoConfig": "code.C"}}
        (folder / name).write_text(json.dumps(values | {"tokenizer_class": "T"}))
    with pytest.raises(UserError, match="transformers cannot read the tokenizer in"):
        load_tokenizer(folder)
    assert not (folder / "ran").exists()


def test_a_special_token_that_is_missing_is_told_and_can_be_named(made, tmp_path):
    folder = copied(made, "gpt2", tmp_path)
    with pytest.raises(UserError, match=r'gpt2 has no pad token; name one in tokenizer_config.json: "pad_token"'):
        load_tokenizer(folder, "pad")
    settings_of(folder, pad_token=END)
    assert load_tokenizer(folder, "pad").special("pad") == load_tokenizer(folder).eos_id

    data = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    data["added_tokens"][0]["content"] = "<end of it all>"
    data["model"]["vocab"]["<end of it all>"] = data["model"]["vocab"].pop(END)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match="has no eos token"):
        load_tokenizer(tmp_path)
    settings_of(tmp_path, eos_token="<end of it all>")
    assert load_tokenizer(tmp_path).encode("<end of it all>") == [data["added_tokens"][0]["id"]]


@pytest.mark.parametrize(
    ("kind", "name", "change", "message"),
    [
        ("gpt2", "vocab.json", lambda text: text[:50], "vocab.json is not JSON"),
        ("gpt2", "vocab.json", lambda text: "[1, 2]", "vocab.json holds no JSON object, but a list"),
        ("gpt2", "merges.txt", lambda text: text + "never seen\n", "cannot read the tokenizer in .*gpt2"),
        ("bert", "tokenizer_config.json", lambda text: "[]", "tokenizer_config.json holds no JSON object"),
        ("bert", "tokenizer.json", lambda text: "{}", "cannot read the tokenizer in .*bert"),
        ("gpt2", "tokenizer.json", lambda text: '{"added_tokens": [1]}', "cannot read the tokenizer in .*gpt2"),
        ("gpt2", "special_tokens_map.json", lambda text: '{"eos_token": 3}', "cannot read the tokenizer in .*gpt2"),
    ],
)
def test_damaged_files_are_named(kind, name, change, message, made, tmp_path):
    path = copied(made, kind, tmp_path) / name
    path.write_text(change(path.read_text(encoding="utf-8") if path.exists() else ""), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(path.parent)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said(made, tmp_path, monkeypatch):
    folder = copied(made, "gpt2", tmp_path)
    (folder / "merges.txt").unlink()
    with pytest.raises(
        UserError,
        match=r"no tokenizer\.json, no vocab\.json and merges\.txt, no vocab\.txt and no tokenizer\.model in .*2$",
    ):
        load_tokenizer(folder)
    with pytest.raises(UserError, match=r"'no such/ folder' is neither a folder nor a hub name"):
        load_tokenizer("no such/ folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the hub cannot be reached and its cache has no copy") as caught:
        load_tokenizer("hut-jax-tests/is-in-no-cache")
    assert "\n" not in str(caught.value)
