"""The training and validation examples of instruction data."""

import os
from typing import NamedTuple

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.data.batching import evenly_spread
from hut_jax.data.chat.encoding import Encoder, Sample, Turns
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.stream import Packing
from hut_jax.data.tokenizer import Tokenizer

_CHECKED = 200_000
"""Lines of a file that are checked before training. Of a longer file as many, evenly spread."""

_FIRST = 5
"""Lines that are checked before any are counted: a file of another kind may seem to have one line."""


class ChatSplits(NamedTuple):
    """Training rows, validation examples, and notes for the user."""

    train: Packing
    validation: Turns
    notes: tuple[str, ...]


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
    encode.check(range(min(len(lines), _FIRST)))
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
    held = score.sample(map(int, rows))
    if not held.examples:
        raise UserError(
            f"{validation or path}: none of {len(rows)} examples for validation has a token to learn among its first "
            f"{max_length}; raise config.data.max_length"
        )
    train = Packing(encode, 0, last, row)
    looked_at = "training examples that were looked at" if train.sampled < last else "training examples"
    notes = _notes(train.sample, looked_at, max_length) + _notes(held, "validation examples", max_length)
    return ChatSplits(train, Turns.of(held.examples), (*notes,))


def _notes(sample: Sample, what: str, max_length: int) -> list[str]:
    """What to tell the user if examples were cut."""
    if not sample.cut + sample.dropped:
        return []
    left_out = f", and leaves out {sample.dropped:,}, of which nothing to learn is left" if sample.dropped else ""
    return [
        f"config.data.max_length, {max_length} tokens, cuts {sample.cut:,} of "
        f"{len(sample.examples) + sample.dropped:,} {what}{left_out}"
    ]
