"""Tokens are those that earlier releases gave, with readers of their own: `tests/goldens/tokens.json` has them.

Of 10,000 lines of E2E, GLUE and old books it has digests, and the tokens themselves of a few texts with small
vocabularies. The bare tokenizers package, set up by hand, is the other reference.
"""

import csv
import hashlib
import itertools
import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from hut_jax.data.tokenizer import load_tokenizer

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/tokens.json").read_text(encoding="utf-8"))


def digest(lists):
    sha = hashlib.sha256()
    for ids in lists:
        sha.update(np.asarray([len(ids), *ids], "<i4").tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "bert"])
def test_the_tokens_of_small_vocabularies_are_those_of_earlier_releases(kind, made):
    tokenizer, texts, wanted = load_tokenizer(made / kind), GOLDENS["texts"], GOLDENS["small"][kind]
    got = {"plain": tokenizer.encode_batch(texts)}
    if kind != "gpt2":
        pairs = tokenizer.encode_texts(list(zip(texts, texts[1:] + texts[:1], strict=True)), 24)
        got["framed"] = tokenizer.encode_texts([(text,) for text in texts], 512).ids
        got |= {"pairs": pairs.ids, "types": pairs.types}
    assert got == wanted


def spread(lines, count):
    return lines[:: max(len(lines) // count, 1)][:count]


def lines_of(source, data):
    """The lines of E2E, GLUE or the books of which the digests are."""
    if source == "e2e":
        with (data / "e2e/trainset.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        return spread([text for row in rows for text in row], 4000)
    if source == "glue":
        tasks = [data / f"glue/{task}/train.tsv" for task in ("CoLA", "MRPC", "RTE", "SST-2", "STS-B", "WNLI")]
        return [line for task in tasks for line in spread(task.read_text(encoding="utf-8-sig").split("\n"), 500)]
    with lzma.open(data / "text/books.txt.xz", "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in itertools.islice(file, 200_000)]
    return spread([line for line in lines if line and line != "<|endoftext|>"], 3000)


def by_hand(kind, folder, prefix_space=False):
    """The tokenizers package's own tokenizer of the vocabulary, framed as its model wants it."""
    if kind == "bert":
        made = tokenizers.Tokenizer(models.WordPiece.from_file(str(folder / "vocab.txt"), unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        made.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
        return made
    made = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    if kind == "gpt2":
        made.add_special_tokens(["<|endoftext|>"])
    else:
        made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix_space)
    return made


@pytest.fixture(scope="module", params=["gpt2", "roberta", "bert"])
def real(request, real_data):
    kind = request.param
    return kind, request.getfixturevalue("minilm") if kind == "bert" else real_data / "tokenizers" / kind


def slow_files(kind, source, folder):
    for name in ("vocab.txt",) if kind == "bert" else ("vocab.json", "merges.txt"):
        shutil.copy(source / name, folder)


def check(tokenizer, kind, source, lines):
    wanted = GOLDENS["real"][f"{kind} {source}"]
    plain = tokenizer.encode_batch(lines)
    assert sum(map(len, plain)) == wanted["tokens"]
    assert digest(plain) == wanted["plain"]
    if "framed" in wanted:
        assert digest(tokenizer.encode_texts([(line,) for line in lines], 512).ids) == wanted["framed"]
        pairs = tokenizer.encode_texts(list(zip(lines[::2], lines[1::2], strict=True)), 24)
        assert (digest(pairs.ids), digest(pairs.types)) == (wanted["pairs"], wanted["types"])
        assert pairs.truncated == wanted["truncated"]


@pytest.mark.parametrize(
    "real", ["gpt2", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("roberta", "bert"))], indirect=True
)
def test_the_tokens_of_e2e_are_those_of_earlier_releases(real, real_data, tmp_path):
    kind, folder = real
    slow_files(kind, folder, tmp_path)
    check(load_tokenizer(tmp_path), kind, "e2e", lines_of("e2e", real_data))


@pytest.mark.full
def test_the_tokens_of_every_layout_are_those_of_earlier_releases(real, real_data, tmp_path):
    kind, folder = real
    layouts = {name: tmp_path / name for name in ("slow", "alone", "both")}
    for layout in layouts.values():
        layout.mkdir()
    reference = by_hand(kind, folder)
    for name in ("slow", "both"):
        slow_files(kind, folder, layouts[name])
    for name in ("alone", "both"):
        reference.save(str(layouts[name] / "tokenizer.json"))
    loaded = {name: load_tokenizer(layout) for name, layout in layouts.items()}
    for source in ("e2e", "glue", "books"):
        lines = lines_of(source, real_data)
        check(loaded["slow"], kind, source, lines)
        wanted = GOLDENS["real"][f"{kind} {source}"]["plain"]
        assert digest(loaded["alone"].encode_batch(lines)) == digest(loaded["both"].encode_batch(lines)) == wanted
        few = [line[:200] for line in lines[::10]]
        framed = [one.ids for one in reference.encode_batch(few)]
        assert all(one.encode_texts([(line,) for line in few], 512).ids == framed for one in loaded.values())


ADDED = {"additional_special_tokens": ["<resto_1>", "<sep>"]}


def all_lines(data):
    return [line for source in ("e2e", "glue", "books") for line in lines_of(source, data)]


def as_by_hand(folder, reference, lines):
    """Ours and the reference give the same tokens, from the folder's files and from a tokenizer.json alone."""
    wanted = [one.ids for one in reference.encode_batch(lines, add_special_tokens=False)]
    ours = load_tokenizer(folder)
    assert ours.encode_batch(lines) == wanted
    ours.auto.save_pretrained(folder / "saved")
    (folder / "alone").mkdir()
    shutil.copy(folder / "saved/tokenizer.json", folder / "alone")
    for other in ("saved", "alone"):
        assert digest(load_tokenizer(folder / other).encode_batch(lines)) == digest(wanted)
    return ours, wanted


@pytest.mark.full
def test_added_tokens_are_whole_within_every_line(real, real_data, tmp_path):
    kind, folder = real
    slow_files(kind, folder, tmp_path)
    name = {"gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer", "bert": "BertTokenizer"}[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **ADDED}))
    reference = by_hand(kind, folder)
    reference.add_special_tokens(ADDED["additional_special_tokens"])
    lines = [f"{line[: i % 40]}<sep>{line[i % 40 :]} <resto_1>" for i, line in enumerate(all_lines(real_data))]
    _, ids = as_by_hand(tmp_path, reference, lines)
    assert all(
        reference.token_to_id("<sep>") in line and line[-1] == reference.token_to_id("<resto_1>") for line in ids
    )


@pytest.mark.full
@pytest.mark.parametrize("real", ["gpt2", "roberta"], indirect=True)
def test_a_prefix_space_is_before_every_line(real, real_data, tmp_path):
    kind, folder = real
    slow_files(kind, folder, tmp_path)
    settings = {"tokenizer_class": {"gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer"}[kind]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "add_prefix_space": True}))
    _, ids = as_by_hand(tmp_path, by_hand(kind, folder, prefix_space=True), all_lines(real_data))
    assert ids != load_tokenizer(folder).encode_batch(all_lines(real_data))


@pytest.mark.full
@pytest.mark.parametrize("real", ["gpt2"], indirect=True)
def test_another_end_token_ends_every_line(real, real_data, tmp_path):
    kind, folder = real
    slow_files(kind, folder, tmp_path)
    ends = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "</s>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **ends}))
    reference = by_hand(kind, folder)
    reference.add_special_tokens(["</s>"])
    ours, ids = as_by_hand(tmp_path, reference, [f"{line}</s>" for line in all_lines(real_data)])
    assert {line[-1] for line in ids} == {ours.eos_id} == {50257}


@pytest.mark.full
def test_a_llama_style_tokenizer_is_as_by_hand_on_every_line(real_data, tmp_path):
    lines = all_lines(real_data)
    own = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=special, limit_alphabet=64, show_progress=False)
    own.train_from_iterator([word for line in lines[::4] for word in line.split()], trainer)
    (tmp_path / "tokenizer.json").write_text(own.to_str())
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))
    _, ids = as_by_hand(tmp_path, own, lines)
    assert any(3 <= token < 259 for line in ids for token in line)  # bytes of letters that the vocabulary lacks
