import lzma
import random

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data import train_tokenizer
from hut_jax.data.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of common and rare words, 200 kB."""
    choose = random.Random(0)
    words = ["".join(choose.choices("abcdefghij", k=choose.randint(2, 6))) for _ in range(300)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(choose.choices(words, k=40_000)), encoding="utf-8")
    return path


def test_it_learns_merges_that_shorten_the_text_and_always_the_same(text, tmp_path):
    for name in ("once", "again"):
        train_tokenizer.main(["--text", str(text), "--vocab_size", "400", "--output", str(tmp_path / name)])
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    tokenizer = load_tokenizer(tmp_path / "once")
    assert tokenizer.vocab_size == 400
    sample = text.read_text(encoding="utf-8")[:5000]
    assert len(tokenizer.encode(sample)) < len(sample) / 2


def test_the_bound_takes_pieces_from_the_whole_text(text, tmp_path):
    packed = tmp_path / "text.txt.xz"
    # A word that only the second half has is learned although no more than half of the text is read.
    packed.write_bytes(lzma.compress(text.read_bytes() + b" zyx" * 50_000))
    assert "Ġzyx" in train_tokenizer.train_bpe([str(packed)], 300, max_bytes=200_000).get_vocab()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", "256"], "vocab_size is 256; the bytes and <|endoftext|> alone are 257"),
        (["--vocab_size", "100000"], "the text is too short: it gives"),
        (["--max_bytes", "-1"], "max_bytes is -1"),
        (["--text", "absent.txt"], "cannot read absent.txt: No such file"),
        (["--vocab_size", "300", "--output", "/dev/null/out"], "cannot write the tokenizer to /dev/null/out: "),
        (["--frob", "1"], "unknown argument --frob; "),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(text, tmp_path, arguments, message):
    with pytest.raises(UserError) as caught:
        train_tokenizer.main(["--text", str(text), "--output", str(tmp_path / "out"), *arguments])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
