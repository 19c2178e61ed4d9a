"""Training rows that are read, encoded and packed as they are needed. Memory does not grow with the data."""

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batch, Batching, evenly_spread, round_up
from hut_jax.data.chat.encoding import Encoder
from hut_jax.data.stream import Stream
from hut_jax.parallel.processes import Share

_SAMPLE = 500
"""Examples from which the rows of an epoch are estimated."""

_SLOTS = 4
"""The most numbers of label slots that batches have, each of which is compiled."""

_OPEN = 16
"""Rows for each of a batch's that are filled at the same time. More leave fewer gaps and read further ahead."""


class Packing(Stream):
    """Rows of several whole examples, which do not see each other, from a part of a file.

    The batches have the arrays of `hut_jax.data.packing.Packed`. Each process reads its own share of the examples. In
    several processes all positions are label slots, since none knows how many labels the others have.

    Args:
        encode: the file's.
        first: the first line.
        last: the line after the last.
        length: positions of a row.

    Raises:
        UserError: no line has an example, or one of a sample is malformed.
    """

    def __init__(self, encode: Encoder, first: int, last: int, length: int):
        self._encode, self._first, self._last, self._length = encode, first, last, length
        sample = [encode(first + int(index)) for index in evenly_spread(last - first, _SAMPLE)]
        inputs = [len(example.tokens) - 1 for example in sample if example is not None]
        if not inputs:
            raise UserError(f"none of {len(sample)} examples has a token to learn within its first tokens")
        self._mean_length = sum(inputs) / len(inputs)
        self._rows = max(1, round(sum(inputs) / len(sample) * (last - first) / length))
        self._examples = last - first

    def __len__(self) -> int:
        return self._rows

    @property
    def longest(self) -> int:
        """The most positions of an example."""
        return self._encode.max_length - 1

    @property
    def mean_length(self) -> float:
        """The mean of the positions of an example, of a sample."""
        return self._mean_length

    def limit_tokens(self, vocab_size: int) -> None:
        """Refuse a token that is not below this, where it comes."""
        self._encode.vocab_size = vocab_size

    def describe(self) -> str:
        """What the data is, in a few words."""
        return f"{self._examples:,} training examples in about {self._rows:,} rows"

    def batches(self, batching: Batching, share: Share) -> grain.IterDataset:
        """The batches of all epochs, in an order that depends on the seed."""
        width = share.last - share.first
        first, last = share.span(batching.batch_size)
        part, parts = share.first // width, share.parts // width
        examples = grain.MapDataset.range(self._first, self._last)
        examples = examples.seed(batching.seed).shuffle().repeat(batching.epochs)[part::parts]
        read = examples.map(_Read(self._encode)).to_iter_dataset()
        filled = grain.experimental.FirstFitPackIterDataset(
            read.filter(_some),
            length_struct=dict.fromkeys(("input_ids", "labels", "learned"), self._length),
            num_packing_bins=_OPEN * (last - first),
            seed=batching.seed,
        )
        rows = filled.batch(last - first, drop_remainder=False)
        return rows.map(_Assemble(batching, share, self._length, several=parts > 1))


class _Read(grain.transforms.Map):
    def __init__(self, encode: Encoder):
        self._encode = encode

    def map(self, element: int) -> dict[str, np.ndarray]:
        example = self._encode(int(element))
        if example is None:
            return {"input_ids": np.zeros(0, np.int32)}
        tokens, learned = example
        return {"input_ids": tokens[:-1], "labels": tokens[1:], "learned": learned[1:].astype(np.int32)}


def _some(element: Mapping[str, Any]) -> bool:
    return len(element["input_ids"]) > 0


class _Assemble(grain.transforms.Map):
    def __init__(self, batching: Batching, share: Share, length: int, *, several: bool):
        self._batching, self._share, self._length, self._several = batching, share, length, several

    def map(self, element: Mapping[str, Any]) -> Batch:
        (first, last), length = self._share.span(self._batching.batch_size), self._length
        rows = last - first
        filled = {name: _padded(element[name], rows) for name in ("input_ids", "labels", "learned")}
        segment_ids, position_ids = (
            _padded(element[f"input_ids_{name}"], rows) for name in ("segment_ids", "positions")
        )
        at = np.flatnonzero(filled["learned"])
        slots = rows * length
        if not self._several:
            slots = min(slots, round_up(max(len(at), 1), rows * max(self._batching.slot_multiple, length // _SLOTS)))
        logits_at, labels = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
        weights = np.zeros(slots, np.float32)
        logits_at[: len(at)] = first * length + at
        labels[: len(at)] = filled["labels"].reshape(-1)[at]
        weights[: len(at)] = 1
        return {
            "input_ids": filled["input_ids"],
            "attention_mask": segment_ids > 0,
            "position_ids": position_ids,
            "segment_ids": segment_ids,
            "logits_at": logits_at,
            "labels": labels,
            "weights": weights,
        }


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(np.asarray(rows, np.int32), ((0, count - len(rows)), (0, 0)))
