import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.encoder_tokenizer import load_encoder_tokenizer
from hut_jax.data.tokenizer import load_tokenizer

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BERT_VOCAB = [*BERT_SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "cat", "[", "]", "A", "É", "é"]
TINY = Path(__file__).resolve().parents[2] / "assets" / "tiny"


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory):
    """The embedded BPE with RoBERTa's special tokens added."""
    folder = tmp_path_factory.mktemp("roberta")
    load_tokenizer(TINY).save(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *vocab, "<mask>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def roberta(roberta_folder):
    return load_encoder_tokenizer(roberta_folder)


def bert_folder(folder, vocab=BERT_VOCAB, **settings):
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return load_encoder_tokenizer(bert_folder(tmp_path_factory.mktemp("bert")))


def test_roberta_puts_two_ends_between_texts_and_one_type_on_all(roberta):
    a, b = roberta.encode_batch(["a cat", " on a mat"])
    assert roberta.encode_texts([("a cat",), ("a cat", " on a mat")], 100) == (
        [[0, *a, 2], [0, *a, 2, 2, *b, 2]],
        [[0] * (len(a) + 2), [0] * (len(a) + len(b) + 4)],
        0,
    )
    assert (roberta.cls_id, roberta.pad_id, roberta.sep_id, roberta.eos_id) == (0, 1, 2, 2)
    assert roberta.mask_id == roberta.vocab_size - 1 == 2052


def test_bert_puts_one_end_between_texts_and_type_one_on_the_second(bert):
    the, cat, s = (BERT_VOCAB.index(token) for token in ("the", "cat", "##s"))
    assert bert.encode_texts([("The",), ("the", "Cats")], 100) == (
        [[2, the, 3], [2, the, 3, cat, s, 3]],
        [[0, 0, 0], [0, 0, 0, 1, 1, 1]],
        0,
    )
    assert (bert.cls_id, bert.pad_id, bert.sep_id, bert.eos_id, bert.mask_id) == (2, 0, 3, 3, 4)
    assert bert.vocab_size == len(BERT_VOCAB)
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


def test_names_of_special_tokens_in_a_text_are_text(roberta, bert):
    for tokenizer, text in ((roberta, "<s> </s> <mask><pad>"), (bert, "[SEP][CLS] [MASK]")):
        special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id}
        assert not special & set(tokenizer.encode(text))
    assert roberta.decode(roberta.encode("<s> </s> <mask><pad>")) == "<s> </s> <mask><pad>"


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_saved_and_loaded_is_the_same(kind, request, tmp_path):
    tokenizer = request.getfixturevalue(kind)
    texts = [("A cat É.", "on the mat"), ("", "x" * 120)]
    tokenizer.save(tmp_path / "all")
    (tmp_path / "json").mkdir()
    (tmp_path / "all" / "tokenizer.json").rename(tmp_path / "json" / "tokenizer.json")
    for folder in ("all", "json"):  # from the vocabulary's own files, and from tokenizer.json alone
        again = load_encoder_tokenizer(tmp_path / folder)
        assert again.kind == kind
        assert again.encode_texts(texts, 30) == tokenizer.encode_texts(texts, 30)
        assert again.vocab_size == tokenizer.vocab_size


def test_the_files_say_whether_berts_text_is_put_in_lower_case(tmp_path):
    for name, settings, wanted in (
        ("default", {}, ["a", "e"]),
        ("cased", {"do_lower_case": False}, ["A", "É"]),
        ("accents", {"do_lower_case": True, "strip_accents": False}, ["a", "é"]),
    ):
        (tmp_path / name).mkdir()
        tokenizer = load_encoder_tokenizer(bert_folder(tmp_path / name, **settings))
        assert tokenizer.encode("A É") == [BERT_VOCAB.index(token) for token in wanted]
        tokenizer.save(tmp_path / name / "saved")
        for file in ("tokenizer_config.json", "vocab.txt"):  # then tokenizer.json says it, beside vocab.txt or alone
            (tmp_path / name / "saved" / file).unlink()
            assert load_encoder_tokenizer(tmp_path / name / "saved").encode("A É") == tokenizer.encode("A É")


def test_the_files_name_the_special_tokens(tmp_path):
    vocab = ["<start>", "<end>", *BERT_VOCAB]
    names = {"cls_token": "<start>", "sep_token": {"content": "<end>", "lstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
    tokenizer = load_encoder_tokenizer(bert_folder(tmp_path, vocab))
    assert tokenizer.encode_texts([("a",)], 9).ids == [[0, vocab.index("a"), 1]]
    bert_folder(tmp_path, vocab, cls_token="[CLS]")
    assert load_encoder_tokenizer(tmp_path).encode_texts([("a",)], 9).ids == [[4, vocab.index("a"), 1]]


def test_a_length_without_room_for_the_texts_is_refused(roberta, bert):
    for tokenizer, pair in ((roberta, 6), (bert, 5)):
        assert len(tokenizer.encode_texts([("a b", "a b")], pair).ids[0]) == pair
        with pytest.raises(
            UserError, match=rf"max_length is {pair - 1}; special tokens and one of each text take {pair}"
        ):
            tokenizer.encode_texts([("a b", "a b")], pair - 1)
        with pytest.raises(UserError, match=r"max_length is 2; .* take 3"):
            tokenizer.encode_texts([("a b",)], 2)


def test_what_is_missing_or_another_kind_is_said(tmp_path, roberta_folder):
    with pytest.raises(
        UserError, match=r"wanted vocab\.txt, vocab\.json and merges\.txt, or tokenizer\.json; found none"
    ):
        load_encoder_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"vocab\.json lacks '<s>', the cls_token of a roberta tokenizer"):
        load_encoder_tokenizer(TINY)
    with pytest.raises(UserError, match=r"vocab\.txt lacks '\[UNK\]' among its 2 tokens, so it is not BERT's kind"):
        load_encoder_tokenizer(bert_folder(tmp_path, ["a", "b"]))
    with pytest.raises(UserError, match=r"vocab\.txt, line 3: 'a' is already in line 1"):
        load_encoder_tokenizer(bert_folder(tmp_path, ["a", "b", "a"]))
    bert_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer_config\.json holds a list; a JSON object is wanted"):
        load_encoder_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"no tokenizer folder 'no such/ folder', and that is no hub name"):
        load_encoder_tokenizer("no such/ folder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.clear(), "is not a tokenizer's JSON: KeyError 'model'"),
        (lambda data: data["normalizer"].update(type="Lowercase"), "is no WordPiece as BERT's"),
        (
            lambda data: data["model"].update(type="Unigram"),
            "is a Unigram tokenizer; RoBERTa's BPE and BERT's WordPiece are read",
        ),
        (lambda data: data.update(normalizer=None), "is not a tokenizer's JSON: TypeError"),
    ],
)
def test_another_kind_of_tokenizer_json_is_refused(bert, tmp_path, change, message):
    bert.save(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_encoder_tokenizer(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
