"""Plain text as blocks of tokens, for causal language modelling."""

import itertools
import os
from array import array
from typing import NamedTuple

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.data.sequences import Sequences
from hut_jax.data.text.files import read_pieces
from hut_jax.data.tokenizer import Tokenizer

_PIECES_AT_ONCE = 64  # two million characters: enough to keep all cores busy, little to hold in memory


class TextSplits(NamedTuple):
    """Training blocks, and validation blocks from the end of the text."""

    train: Sequences
    validation: Sequences


def load_text(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, block: int, holdout: float = 0.01, max_bytes: int = 0
) -> TextSplits:
    """Blocks of `block + 1` tokens. All but the first token are predicted. Neighbouring blocks share one token.

    In the file a line `<|endoftext|>` separates two documents. In the blocks that token follows each document. Tokens
    at the end that do not fill a block are dropped.

    Args:
        path: a UTF-8 text, plain or `.xz`.
        tokenizer: encodes the text.
        block: the number of predicted tokens in a block, at least 1.
        holdout: the share of blocks for validation, from the end of the text. Above 0, at least one block is held out.
        max_bytes: the largest number of bytes to read; 0 reads all.

    Raises:
        UserError: the file cannot be read, `block` or `holdout` is out of range, or the text is too short.
    """
    if block < 1:
        raise UserError(f"block is {block}; a block predicts at least 1 token")
    if not 0 <= holdout < 1:
        raise UserError(f"holdout is {holdout}; it must be at least 0 and below 1")
    if max_bytes < 0:
        raise UserError(f"max_bytes is {max_bytes}; it must be at least 0, which reads all")
    tokens = _encode(path, tokenizer, max_bytes)
    blocks = max(len(tokens) - 1, 0) // block
    held_out = max(round(holdout * blocks), 1) if holdout else 0
    if blocks - held_out < 1:
        wanted = (held_out + 1) * block + 1
        raise UserError(f"{path}: the text gives {len(tokens)} tokens; blocks of {block} need at least {wanted}")
    starts = np.arange(blocks, dtype=np.int64) * block
    first = np.ones(blocks, np.int32)
    cut = blocks - held_out
    return TextSplits(
        Sequences(tokens, starts[:cut], starts[:cut] + block + 1, first[:cut]),
        Sequences(tokens, starts[cut:], starts[cut:] + block + 1, first[cut:]),
    )


def _encode(path: str | os.PathLike[str], tokenizer: Tokenizer, max_bytes: int) -> np.ndarray:
    tokens = array("i")  # grows in place: the text itself is never held whole
    pieces = read_pieces(path, max_bytes=max_bytes)
    while batch := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
        encoded = iter(tokenizer.encode_batch([piece for piece in batch if piece is not None]))
        for piece in batch:
            tokens.extend([tokenizer.eos_id] if piece is None else next(encoded))
    return np.frombuffer(tokens, np.int32)
