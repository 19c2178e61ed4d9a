"""Train a small byte-level BPE on text files.

python -m hut_jax.data.train_tokenizer --text books.txt.xz --vocab_size 2048 --max_bytes 4000000 --output DIR
"""

import itertools
import json
from collections.abc import Iterator, Sequence

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.data.text.files import read_pieces
from hut_jax.data.tokenizer import END_OF_TEXT, Tokenizer, save_bpe

_SMALLEST = 257  # the bytes and <|endoftext|>


def train_bpe(
    paths: Sequence[str], vocab_size: int, *, max_bytes: int = 0
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges learned from the texts; the same for the same texts.

    Args:
        paths: UTF-8 texts, plain or `.xz`, documents separated by a line `<|endoftext|>`.
        vocab_size: tokens of the vocabulary: `<|endoftext|>`, the 256 bytes, and merges for the rest.
        max_bytes: about how much of each text to learn from, in equal steps over its length; 0 takes all.

    Raises:
        UserError: a file cannot be read, `vocab_size` is too small, or the texts are too short for it.
    """
    if vocab_size < _SMALLEST:
        raise UserError(f"vocab_size is {vocab_size}; the bytes and {END_OF_TEXT} alone are {_SMALLEST}")
    if max_bytes < 0:
        raise UserError(f"max_bytes is {max_bytes}; 0 takes all, and nothing is below it")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = itertools.chain.from_iterable(_spread(path, max_bytes) for path in paths)
    # A list, because an error raised inside the library's own loop over an iterator would lose its type.
    bpe.train_from_iterator(list(pieces), trainer)
    model = json.loads(bpe.to_str())["model"]
    if len(model["vocab"]) < vocab_size:
        raise UserError(f"the text is too short: it gives {len(model['vocab'])} tokens of the {vocab_size} wanted")
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _spread(path: str, max_bytes: int) -> Iterator[str]:
    step = 1
    if max_bytes:
        total = sum(len(piece.encode()) for piece in read_pieces(path) if piece is not None)
        step = max(-(-total // max_bytes), 1)
    pieces = (piece for piece in read_pieces(path) if piece is not None)
    return itertools.islice(pieces, 0, None, step)


def main(argv: Sequence[str]) -> None:
    """The command: train, check, write."""
    parser = cli.Parser("hut_jax.data.train_tokenizer", __doc__ or "")
    parser.add_argument("--text", required=True, action="append", metavar="FILE", help="a UTF-8 text, plain or .xz")
    parser.add_argument("--vocab_size", type=int, default=2048, help="tokens of the vocabulary (default: 2048)")
    parser.add_argument("--max_bytes", type=int, default=0, help="about how much of each text to take; 0: all")
    parser.add_argument("--output", required=True, metavar="DIR", help="where vocab.json and merges.txt go")
    args = parser.parse_args(argv)
    vocab, merges = train_bpe(args.text, args.vocab_size, max_bytes=args.max_bytes)
    Tokenizer(vocab, merges)  # what is written can be read again
    save_bpe(args.output, vocab, merges)
    print(f"{args.output}: {len(vocab)} tokens, {len(merges)} merges")


if __name__ == "__main__":
    cli.run(main)
