"""The training and validation examples of instruction data."""

import os
from typing import NamedTuple

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.data.batching import evenly_spread
from hut_jax.data.chat.encoding import Encoder, Turns
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.stream import Packing
from hut_jax.data.tokenizer import Tokenizer

_CHECKED = 200_000
"""Lines of a file that are checked before training. Of a longer file as many, evenly spread."""


class ChatSplits(NamedTuple):
    """Training rows, and validation examples."""

    train: Packing
    validation: Turns


def load_chat(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    row: int,
    holdout: int,
    validation: str | os.PathLike[str] = "",
) -> ChatSplits:
    """The examples of JSONL files, whose lines `hut_jax.data.chat.turns` describes.

    Args:
        path: the file for training.
        tokenizer: the base's.
        max_length: the most tokens of an example; more are cut.
        row: positions of a row, which holds several examples.
        holdout: examples for validation, from the end of the file, but at most half of it.
        validation: another file for validation, of which as many examples are taken, evenly spread; empty: none.

    Raises:
        UserError: a file is missing or too small, or a line that was looked at is malformed.
    """
    lines = Lines(path)
    encode = Encoder(lines, tokenizer, max_length)
    if len(lines) < (1 if validation else 2):
        raise UserError(f"{path} has {len(lines)} examples, and there should be at least {1 if validation else 2}")
    encode.check(map(int, evenly_spread(len(lines), _CHECKED)))
    last = len(lines)
    if validation:
        other = Lines(validation)
        score, rows = Encoder(other, tokenizer, max_length), evenly_spread(len(other), holdout)
    else:
        last -= min(holdout, last // 2)
        score, rows = encode, np.arange(last, len(lines))
    held = [example for index in rows if (example := score(int(index))) is not None]
    if not held:
        raise UserError(f"{validation or path}: none of {len(rows)} examples for validation has a token to learn")
    return ChatSplits(Packing(encode, 0, last, row), Turns.of(held))
