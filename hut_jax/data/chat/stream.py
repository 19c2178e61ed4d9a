"""Training rows that are read, encoded and packed as they are needed. Memory does not grow with the data."""

import math
from collections.abc import Sequence
from typing import SupportsIndex

import grain
import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batch, Batching, evenly_spread, round_up
from hut_jax.data.chat.encoding import Encoder, Turns
from hut_jax.data.packing import pack
from hut_jax.data.stream import Stream
from hut_jax.parallel.processes import Share

_SAMPLE = 500
"""Lines from which the rows of an epoch are estimated."""

_SLOTS = 4
"""The most sizes that the label slots of a batch have. Each size is compiled."""

_POOL = 64
"""Rows, about, whose examples are read and packed together. More leave fewer gaps, and the first batch waits longer."""

_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)  # pools


class Packing(Stream):
    """Rows of several whole examples, which do not see each other, from a part of a file.

    Every example comes once in an epoch, before any comes again. The batches have the arrays of
    `hut_jax.data.packing.Packed`. Each process reads its own share of the examples. In several processes all positions
    are label slots, since none knows how many labels the others have.

    Args:
        encode: the file's.
        first: the first line.
        last: the line after the last.
        length: positions of a row.

    Attributes:
        sample: the examples of a sample of the lines.
        sampled: the number of these lines.

    Raises:
        UserError: no line of the sample has an example, or one is malformed.
    """

    def __init__(self, encode: Encoder, first: int, last: int, length: int):
        self._encode, self._first, self._last, self._length = encode, first, last, length
        at = evenly_spread(last - first, _SAMPLE)
        self.sampled, self.sample = len(at), encode.sample(first + int(index) for index in at)
        if not self.sample.examples:
            raise UserError(
                f"none of {self.sampled} examples has a token to learn among its first {encode.max_length}; raise "
                "config.data.max_length"
            )
        turns = Turns.of(self.sample.examples)
        self._mean_length = float(turns.inputs.mean())
        filled, share = pack(turns, length).inputs, (last - first) / self.sampled
        self._pools = max(1, round(turns.inputs.sum() / length * share / _POOL))
        # The last row of a pool is not full: half, about. The sample's counts as far as it is filled.
        self._rows = math.ceil((len(filled) - 1 + filled.min() / length) * share + (self._pools - 1) / 2)
        self._lines = last - first

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
        """Refuse the token ids from `vocab_size` on when an example has one."""
        self._encode.vocab_size = vocab_size

    def describe(self) -> str:
        """What the data is, in a few words."""
        return f"{self._lines:,} training examples in about {self._rows:,} rows"

    def batches(self, batching: Batching, share: Share) -> grain.IterDataset:
        """The batches of all epochs, in an order that depends on the seed."""
        width, (first, last) = share.last - share.first, share.span(batching.batch_size)
        part, parts = share.first // width, share.parts // width
        lines = grain.MapDataset.range(self._first, self._last).seed(batching.seed).shuffle()
        own = range(part % self._lines, self._lines, parts)
        pools = _Pools(self._encode, lines, own, max(1, round(self._pools / parts)), self._length, batching)
        rows = grain.experimental.FlatMapIterDataset(grain.MapDataset.source(pools).to_iter_dataset(_READ), _Rows())
        filled = rows.batch(last - first, drop_remainder=False)
        return filled.map(_Assemble(batching, share, self._length, several=parts > 1))


class _Pools:
    """The rows of each pool of all epochs: random access, without state. A pool is of one epoch."""

    def __init__(self, encode: Encoder, lines: Sequence[int], own: range, count: int, length: int, batching: Batching):
        self._encode, self._lines, self._own, self._count, self._length = encode, lines, own, count, length
        self._batching = batching

    def __len__(self) -> int:
        return self._count * (self._batching.epochs or 2**62 // self._count)

    def __getitem__(self, index: SupportsIndex) -> Sequence[Batch]:
        epoch, pool = divmod(index.__index__(), self._count)
        places = self._own[len(self._own) * pool // self._count : len(self._own) * (pool + 1) // self._count]
        lines = [self._lines[epoch * len(self._lines) + place] for place in places]
        if not (examples := self._encode.sample(map(int, lines)).examples):
            return []
        packed = pack(Turns.of(examples), self._length)
        random = np.random.default_rng([self._batching.seed, epoch, pool])
        return [packed.assemble(row[None], 1, self._length, self._length) for row in random.permutation(len(packed))]


class _Rows(grain.experimental.FlatMapTransform):
    max_fan_out = 1 << 30

    def flat_map(self, element: Sequence[Batch]) -> Sequence[Batch]:
        return element


class _Assemble(grain.transforms.Map):
    """A batch of these rows, with few sizes of the label slots. Empty rows fill the last batch."""

    def __init__(self, batching: Batching, share: Share, length: int, *, several: bool):
        self._batching, self._share, self._length, self._several = batching, share, length, several

    def map(self, element: Batch) -> Batch:
        (first, last), length = self._share.span(self._batching.batch_size), self._length
        rows, slots = last - first, (last - first) * length
        some = np.flatnonzero(element["weights"])
        if not self._several:
            slots = min(slots, round_up(max(len(some), 1), rows * max(self._batching.slot_multiple, length // _SLOTS)))
        begins = np.arange(first, first + len(element["weights"]), dtype=np.int32)[:, None] * length
        labels = {
            "logits_at": element["logits_at"] + begins,
            "labels": element["labels"],
            "weights": element["weights"],
        }
        tokens = ("input_ids", "attention_mask", "position_ids", "segment_ids")
        return {name: _padded(element[name].reshape(-1, length), rows) for name in tokens} | {
            name: _padded(values.reshape(-1)[some], slots) for name, values in labels.items()
        }


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    return np.pad(array, ((0, count - len(array)), *[(0, 0)] * (array.ndim - 1)))
