"""Every layout that tokenizers come in gives the tokens of transformers, and those of the bare tokenizers package."""

import json
import shutil

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from hut_jax.core.errors import UserError
from hut_jax.data.tokenizer import load_tokenizer
from tests.data.conftest import BERT_SPECIAL, BERT_VOCAB, TINY

TEXTS = [
    "This is fine.",
    " lead",
    "Café ☃ it's 2026",
    "a <mask> here </s> not",
    "two  spaces\n",
    "<sep>a<resto_1> b<pad>",
]


def as_theirs(folder):
    """The tokens of transformers' AutoTokenizer, and of our own tokenizer; the folder says what it is."""
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.encode_texts([(text,)], 64).ids == [theirs(text)["input_ids"]], text
    generic = type(theirs).__name__ in (
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    )  # versions differ in its default
    pair = theirs("a b", "c d", return_token_type_ids=generic or None)
    types = pair.get("token_type_ids", [0] * len(pair["input_ids"]))
    assert ours.encode_texts([("a b", "c d")], 64)[:2] == ([pair["input_ids"]], [types])
    assert ours.vocab_size == len(theirs)
    return ours


def bare(folder, prefix_space=False, added=()):
    """The tokenizers package's own byte-level BPE of the same vocabulary."""
    made = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.add_special_tokens([token for token in ("<|endoftext|>", "</s>") if made.token_to_id(token) is not None])
    made.add_special_tokens(list(added))
    return made


def same(ours, reference):
    assert ours.encode_batch(TEXTS) == [one.ids for one in reference.encode_batch(TEXTS, add_special_tokens=False)]


def copied(made, kind, tmp_path, **settings):
    folder = shutil.copytree(made / kind, tmp_path / kind)
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_a_prefix_space_is_added_where_the_files_say_so(kind, made, tmp_path):
    name = {"gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer"}[kind]
    without = load_tokenizer(made / kind)
    folder = copied(made, kind, tmp_path, tokenizer_class=name, add_prefix_space=True)
    ours = as_theirs(folder)
    assert ours.encode("This") == ours.encode(" This") == without.encode(" This") != without.encode("This")
    if kind == "gpt2":
        same(ours, bare(folder, prefix_space=True))

    ours.auto.save_pretrained(tmp_path / "saved")  # as transformers writes it, and its tokenizer.json alone
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "saved/tokenizer.json", tmp_path / "alone")
    assert as_theirs(tmp_path / "saved").encode_batch(TEXTS) == ours.encode_batch(TEXTS)
    assert load_tokenizer(tmp_path / "alone").encode_batch(TEXTS) == ours.encode_batch(TEXTS)


def test_a_tokenizer_of_ones_own_keeps_its_normalizer(made, tmp_path):
    vocab = json.loads((made / "roberta/vocab.json").read_text())
    own = tokenizers.Tokenizer(
        models.BPE.from_file(*(str(made / "roberta" / name) for name in ("vocab.json", "merges.txt")))
    )
    own.normalizer, own.decoder = normalizers.Lowercase(), decoders.ByteLevel()
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    own.post_processor = processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]))
    own.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    own.save(str(tmp_path / "tokenizer.json"))
    alone = load_tokenizer(tmp_path, "cls", "sep", "pad", "mask")
    same(alone, own)
    roles = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "</s>"}
    for name in ("PreTrainedTokenizerFast", "TokenizersBackend"):  # as transformers 4 and 5 say
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **roles}))
        ours = load_tokenizer(tmp_path)
        same(ours, own)
        assert ours.encode_texts([("THIS", "that")], 64) == alone.encode_texts([("this", "that")], 64)


@pytest.mark.parametrize("extra", ["additional_special_tokens", "extra_special_tokens"])
def test_added_tokens_are_whole_in_every_layout(extra, made, tmp_path):
    settings = {"tokenizer_class": "GPT2Tokenizer", extra: ["<sep>"], "pad_token": "<pad>"}
    slow = copied(made, "gpt2", tmp_path, **settings)
    ids = {"<resto_1>": 2048, "<sep>": 2049, "<pad>": 2050}
    (slow / "added_tokens.json").write_text(json.dumps(ids))
    reference = bare(slow, added=ids)
    ours = load_tokenizer(slow)
    same(ours, reference)
    assert ours.encode("<sep>a<resto_1><pad>") == [2049, ours.encode("a")[0], 2048, 2050]
    assert (ours.vocab_size, ours.special("pad")) == (2051, 2050)
    ours.save(tmp_path / "merged")
    same(load_tokenizer(tmp_path / "merged"), reference)

    ours.auto.save_pretrained(tmp_path / "both")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "both/tokenizer.json", tmp_path / "alone")
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        shutil.copy(slow / name, tmp_path / "both")
    same(as_theirs(tmp_path / "both"), reference)
    same(load_tokenizer(tmp_path / "alone"), reference)


def test_the_end_token_may_be_an_added_one_or_have_another_name(made, tmp_path):
    vocab = json.loads((made / "gpt2/vocab.json").read_text())
    last = {token: i - (i > vocab["<|endoftext|>"]) for token, i in vocab.items() if token != "<|endoftext|>"}
    folder = copied(made, "gpt2", tmp_path)
    (folder / "vocab.json").write_text(json.dumps(last))
    (folder / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 2047}))
    ours = load_tokenizer(folder)
    assert (ours.eos_id, ours.vocab_size) == (2047, 2048)
    same(ours, bare(folder, added=["<|endoftext|>"]))

    (folder / "added_tokens.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(last | {"</s>": 2047}))
    tokens = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "</s>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **tokens}))
    ours = as_theirs(folder)
    assert (ours.eos_id, ours.encode("a</s>")[-1]) == (2047, 2047)
    same(ours, bare(folder))


def test_a_model_of_one_kind_may_have_a_tokenizer_of_another(made, tmp_path):
    folder = copied(made, "bert", tmp_path, tokenizer_class="BertTokenizer")  # as Chinese GPT-2s do
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert as_theirs(folder).eos_id == BERT_VOCAB.index("[SEP]")
    (folder / "tokenizer_config.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(made / "roberta" / name, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert load_tokenizer(folder).encode_texts([("a",)], 9) == load_tokenizer(made / "roberta").encode_texts(
        [("a",)], 9
    )


BREAKS = "\u2028\u0085\u3000"  # which splitlines() and strip() take for more than letters
ODD = [*BERT_SPECIAL, *BREAKS, "the", "cat", "##s", "\U0001f60e", "##\U0001f60e", "\u6211", "\u54e6"]
LINES = "".join(f"{token}\n" for token in ODD)


@pytest.mark.parametrize(
    "data",
    {
        "as they are": LINES,
        "CRLF": LINES.replace("\n", "\r\n"),
        "no final newline": LINES[:-1],
        "a blank line": LINES.replace("\u3000\n", "\n"),
        "two blank lines": LINES.replace("\u2028\n\u0085\n", "\n\n"),
        "blank lines at the end": LINES + "\n\n",
        "a token twice": LINES + "the\n",
        "a byte order mark": "\ufeff" + LINES,
        "spaces after tokens": LINES.replace("\n", " \n"),
    }.items(),
    ids=lambda item: item[0],
)
def test_odd_vocabularies_of_bert(data, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(data[1].encode())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    texts = ["the cats", "\u54e6\u6211", "cat\U0001f60e"]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    try:
        wanted = theirs(texts)["input_ids"]
    except Exception:  # transformers 4 finds no [UNK] where spaces follow the tokens
        with pytest.raises(UserError, match="cannot read the tokenizer"):
            load_tokenizer(tmp_path)
        return
    assert load_tokenizer(tmp_path).encode_texts([(text,) for text in texts], 32).ids == wanted
    if data[0] in ("a token twice", "a byte order mark"):
        return
    tokens = [["the", "cat", "##s"], ["\u54e6", "\u6211"], ["cat", "##\U0001f60e"]]
    assert wanted == [[2, *(ODD.index(token) for token in text), 3] for text in tokens]


def test_the_files_say_whether_berts_text_is_put_in_lower_case(made, tmp_path):
    for name, settings, wanted in (
        ("default", {}, ["a", "e"]),
        ("cased", {"do_lower_case": False}, ["A", "É"]),
        ("accents", {"do_lower_case": True, "strip_accents": False}, ["a", "é"]),
    ):
        folder = shutil.copytree(made / "bert", tmp_path / name)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = load_tokenizer(folder)
        assert tokenizer.encode("A É") == [BERT_VOCAB.index(token) for token in wanted]
        tokenizer.auto.save_pretrained(folder / "saved")
        assert as_theirs(folder / "saved").encode("A É") == tokenizer.encode("A É")
        (folder / "saved/tokenizer_config.json").unlink()  # then tokenizer.json alone says it
        assert load_tokenizer(folder / "saved").encode("A É") == tokenizer.encode("A É")


def test_the_files_name_the_special_tokens(tmp_path):
    vocab = ["<start>", "<end>", *BERT_VOCAB]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    names = {"cls_token": "<start>", "sep_token": {"content": "<end>", "lstrip": False, "rstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
    assert load_tokenizer(tmp_path).encode_texts([("a",)], 9).ids == [[0, vocab.index("a"), 1]]


def test_a_llama_style_tokenizer_and_its_chat_template(tmp_path):
    letters = [*"abcdefghijklmnopqrstuvwxyz", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *letters, "▁t", "he", "▁the"])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    own = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    own.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    own.add_special_tokens(["<unk>", "<s>", "</s>"])
    own.save(str(tmp_path / "tokenizer.json"))
    alone = load_tokenizer(tmp_path)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    values = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    for ours in (alone, load_tokenizer(tmp_path)):
        same(ours, own)
        assert ours.eos_id == 2
        assert ours.begin_ids == [1]
        assert ours.encode_texts([("the cat é",)], 20).ids == [own.encode("the cat é").ids]
        assert ours.decode(ours.encode("the cat é")) == "the cat é"
    ours.save(tmp_path / "merged")
    assert load_tokenizer(tmp_path / "merged").auto.chat_template == ours.auto.chat_template == template


def test_the_embedded_tokenizer_is_as_transformers_reads_it():
    same(as_theirs(TINY), bare(TINY))
    assert load_tokenizer(TINY).begin_ids == []


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ({"tokenizer_class": "BertTokenizer"}, True),
        ({"tokenizer_class": "DistilBertTokenizer"}, False),
        ({"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}, False),
    ],
)
def test_the_texts_of_a_pair_are_told_apart_where_the_tokenizer_does(made, tmp_path, settings, apart):
    folder = shutil.copytree(made / "bert", tmp_path / "bert")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = AutoTokenizer.from_pretrained(folder)("a b", "c d")
    assert ("token_type_ids" in theirs) == apart
    types = theirs.get("token_type_ids", [0] * len(theirs["input_ids"]))
    assert load_tokenizer(folder).encode_texts([("a b", "c d")], 64).types == [types]
    assert (1 in types) == apart
