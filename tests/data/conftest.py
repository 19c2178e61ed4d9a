import json
from pathlib import Path

import pytest

from hut_jax.data.tokenizer import Tokenizer, load_tokenizer

TINY = Path(__file__).resolve().parents[2] / "assets" / "tiny"
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BERT_VOCAB = [*BERT_SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "cat", "[", "]", "A", "É", "é"]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    return load_tokenizer(TINY)


@pytest.fixture(scope="session")
def gpt2_folder(real_data: Path) -> Path:
    return real_data / "tokenizers" / "gpt2"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Folders of small tokenizers as the first releases had them: gpt2, roberta and bert, without any settings."""
    folder = tmp_path_factory.mktemp("tokenizers")
    pieces = json.loads((TINY / "vocab.json").read_text(encoding="utf-8"))
    names = {"gpt2": list(pieces), "roberta": ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]}
    for kind, tokens in names.items():
        (folder / kind).mkdir()
        vocab = {token: i for i, token in enumerate(tokens)}
        (folder / kind / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        (folder / kind / "merges.txt").write_bytes((TINY / "merges.txt").read_bytes())
    (folder / "bert").mkdir()
    (folder / "bert" / "vocab.txt").write_text("".join(f"{token}\n" for token in BERT_VOCAB), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def roberta(made) -> Tokenizer:
    return load_tokenizer(made / "roberta", "cls", "sep", "pad", "mask")


@pytest.fixture(scope="session")
def bert(made) -> Tokenizer:
    return load_tokenizer(made / "bert", "cls", "sep", "pad", "mask")


def phobert(folder: Path) -> None:
    """A small tokenizer of a class that transformers writes in Python alone."""
    words = ["hel@@", "lo", "wor@@", "ld", *(f"{letter}@@" for letter in "helowrd"), "o", "d", "a", "the"]
    (folder / "vocab.txt").write_text("".join(f"{word} 1\n" for word in words))
    merges = ["h e", "he l", "l o</w>", "w o", "wo r", "l d</w>", "t h", "th e</w>"]
    (folder / "bpe.codes").write_text("".join(f"{merge} {9 - rank}\n" for rank, merge in enumerate(merges)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PhobertTokenizer"}))
