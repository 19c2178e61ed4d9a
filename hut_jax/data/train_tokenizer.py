"""Train a small byte-level BPE on text files.

python -m hut_jax.data.train_tokenizer --text books.txt.xz --vocab_size 2048 --max_bytes 4000000 --output DIR
"""

import os
from collections.abc import Sequence

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from hut_jax.core import cli
from hut_jax.core.errors import UserError, one_line
from hut_jax.data.text.files import SEPARATOR, read_pieces

_SMALLEST = 257  # the bytes and <|endoftext|>


def train_bpe(paths: Sequence[str], vocab_size: int, *, max_bytes: int = 0) -> tokenizers.Tokenizer:
    """The tokenizer learned from the texts; the same for the same texts.

    Args:
        paths: UTF-8 texts, plain or `.xz`, documents separated by a line `<|endoftext|>`.
        vocab_size: tokens of the vocabulary: `<|endoftext|>`, the 256 bytes, and merges for the rest.
        max_bytes: about how much of each text to learn from, in equal steps over its length; 0 takes all.

    Raises:
        UserError: a file cannot be read, `vocab_size` is too small, or the texts are too short for it.
    """
    if vocab_size < _SMALLEST:
        raise UserError(f"vocab_size is {vocab_size}; the bytes and {SEPARATOR} alone are {_SMALLEST}")
    if max_bytes < 0:
        raise UserError(f"max_bytes is {max_bytes}; 0 takes all, and nothing is below it")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([piece for path in paths for piece in _spread(path, max_bytes)], trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise UserError(f"the text is too short: it gives {bpe.get_vocab_size()} tokens of the {vocab_size} wanted")
    return bpe


def _spread(path: str, max_bytes: int) -> list[str]:
    pieces = [piece for piece in read_pieces(path) if piece is not None]
    step = -(-sum(len(piece.encode()) for piece in pieces) // max_bytes) if max_bytes else 1
    return pieces[:: max(step, 1)]


def main(argv: Sequence[str]) -> None:
    """The command: train, check, write."""
    parser = cli.Parser("hut_jax.data.train_tokenizer", __doc__ or "")
    parser.add_argument("--text", required=True, action="append", metavar="FILE", help="a UTF-8 text, plain or .xz")
    parser.add_argument("--vocab_size", type=int, default=2048, help="tokens of the vocabulary (default: 2048)")
    parser.add_argument("--max_bytes", type=int, default=0, help="about how much of each text to take; 0: all")
    parser.add_argument("--output", required=True, metavar="DIR", help="where vocab.json and merges.txt go")
    args = parser.parse_args(argv)
    bpe = train_bpe(args.text, args.vocab_size, max_bytes=args.max_bytes)
    try:
        os.makedirs(args.output, exist_ok=True)
        bpe.model.save(args.output)  # vocab.json and merges.txt
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"cannot write the tokenizer to {args.output}: {one_line(error)}") from error
    print(f"{args.output}: {args.vocab_size} tokens, {args.vocab_size - _SMALLEST} merges")


if __name__ == "__main__":
    cli.run(main)
