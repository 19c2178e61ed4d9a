import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.text.dataset import load_text
from hut_jax.data.text.files import read_pieces
from hut_jax.data.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[3]
WORDS = st.sampled_from(
    ["a", "word", "it's", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\x1c", "!", "?!", "\u3000", "é", "7"]
)


@settings(max_examples=50, deadline=None)
@given(text=st.lists(WORDS, max_size=80).map("".join), size=st.integers(1, 12))
def test_pieces_encode_to_the_tokens_of_the_whole(tiny_tokenizer, tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("pieces") / "text.txt"
    path.write_bytes(text.encode())
    pieces = list(read_pieces(path, size=size))
    assert "".join(piece for piece in pieces if piece) == text
    by_pieces = [token for ids in tiny_tokenizer.encode_batch([p for p in pieces if p]) for token in ids]
    assert by_pieces == tiny_tokenizer.encode(text)
    assert pieces.count(None) == bool(text)


def test_documents_lose_the_line_between_them(tmp_path):
    path = tmp_path / "text.txt"
    lines = "\ufeffone\ntwo <|endoftext|> two\n\n<|endoftext|>\n<|endoftext|>\nthree\r\n<|endoftext|>\r\nfour\n"
    path.write_bytes(lines.encode())
    assert list(read_pieces(path)) == ["one\ntwo <|endoftext|> two\n", None, "three", None, "four\n", None]


def test_blocks_are_the_text_once_over(tiny_tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    first, second = "A tale of some length. " * 50, "Another, longer one! " * 90
    path.write_text(f"{first}\n<|endoftext|>\n{second}", encoding="utf-8")
    eos = tiny_tokenizer.eos_id
    tokens = [*tiny_tokenizer.encode(first), eos, *tiny_tokenizer.encode(second), eos]
    splits = load_text(path, tiny_tokenizer, block=16, holdout=0.25)
    blocks = [part[i] for part in splits for i in range(len(part))]
    assert all(len(block) == 17 for block in blocks)
    predicted = np.concatenate([block[1:] for block in blocks])
    assert len(predicted) == (len(tokens) - 1) // 16 * 16
    np.testing.assert_array_equal(predicted, tokens[1 : 1 + len(predicted)])
    np.testing.assert_array_equal([block[0] for block in blocks], tokens[: len(predicted) : 16])
    assert len(splits.validation) == round(len(blocks) / 4)
    assert set(np.concatenate([part.loss_start for part in splits])) == {1}


def test_xz_is_the_same_text_and_the_cap_takes_whole_lines(tiny_tokenizer, tmp_path):
    plain, packed, cut = (tmp_path / name for name in ("text.txt", "text.txt.xz", "cut.txt"))
    lines = [f"Line {i} of a text that is numbered.\n".encode() for i in range(200)]
    plain.write_bytes(b"".join(lines))
    packed.write_bytes(lzma.compress(b"".join(lines)))
    cut.write_bytes(b"".join(lines[:100]))

    def tokens(path, max_bytes=0):
        return load_text(path, tiny_tokenizer, block=8, max_bytes=max_bytes).train.tokens.tolist()

    assert tokens(plain) == tokens(packed)
    cap = sum(map(len, lines[:100])) + 5
    assert tokens(plain, cap) == tokens(packed, cap) == tokens(cut)


def test_long_lines_come_in_pieces_and_keep_their_characters(tiny_tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    text = "é中 " * 40_000  # 240 kB in one line, its characters across the limits of what is read at once
    path.write_bytes(text.encode())
    pieces = list(read_pieces(path))
    assert len(pieces) > 3
    assert "".join(pieces[:-1]) == text


@pytest.fixture(params=["made", "real"])
def books(request, tmp_path):
    """A text of more than 200 kB as .xz, and the folder of a tokenizer."""
    if request.param == "real":
        real_data = request.getfixturevalue("real_data")
        return real_data / "text/books.txt.xz", real_data / "tokenizers/gpt2"
    path = tmp_path / "books.txt.xz"
    path.write_bytes(lzma.compress((ROOT / "assets/restaurants/trainset.csv").read_bytes()))
    return path, ROOT / "assets/tiny"


def test_books_start_as_the_tokens_of_themselves(books):
    path, folder = books
    tokenizer = load_tokenizer(folder)
    splits = load_text(path, tokenizer, block=128, max_bytes=300_000, holdout=0.1)
    with lzma.open(path, "rb") as file:
        text = file.read(200_000).decode("utf-8", errors="ignore")
    whole = tokenizer.encode(text)[:30_000]
    assert len(whole) == 30_000
    np.testing.assert_array_equal(splits.train.tokens[: len(whole)], whole)
    assert len(splits.validation) == round(0.1 * (len(splits.train) + len(splits.validation)))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("absent.txt", None, {}, r"cannot read .*absent\.txt: No such file"),
        ("bad.txt", b"fine\nbad \xff byte\n", {}, r"bad\.txt, line 2: not UTF-8"),
        ("end.txt", b"fine\ncut \xc3", {}, r"end\.txt, line 2: not UTF-8 \(unexpected end of data\)"),
        ("fake.xz", b"no xz at all", {}, r"fake\.xz: the \.xz is corrupt or cut short"),
        ("cut.xz", lzma.compress(b"some text " * 10_000)[:-20], {}, r"cut\.xz: the \.xz is corrupt or cut short"),
        ("empty.txt", b"", {}, "gives 0 tokens; blocks of 8 need at least 17"),
        ("short.txt", b"short", {}, r"gives \d tokens; blocks of 8 need at least 17"),
        ("any.txt", b"text", {"block": 0}, "block is 0"),
        ("any.txt", b"text", {"holdout": 1.0}, "holdout is 1.0"),
        ("any.txt", b"text", {"max_bytes": -1}, "max_bytes is -1"),
    ],
)
def test_mistakes_are_told(tiny_tokenizer, tmp_path, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_text(tmp_path / name, tiny_tokenizer, **({"block": 8} | options))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_text(tiny_tokenizer, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_text(tmp_path, tiny_tokenizer, block=8)
