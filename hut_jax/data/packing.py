"""Several sequences in a row of a batch, where none sees another: few positions are without a token."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batch
from hut_jax.data.sequences import Sequences
from hut_jax.parallel.processes import ALL, Share

_POOL = 4096
"""Sequences that are packed together. More leave fewer gaps, and put the same sequences together more often."""


class Packed:
    """Rows of whole sequences. The rows are the examples of a batch.

    A batch has the arrays of `Sequences`, and two more:

        position_ids  [B, L] int32    the place of each token in its sequence
        segment_ids   [B, L] int32    the number of its sequence in the row, from 1; 0 where there is no token

    Args:
        sequences: all sequences.
        rows: the sequences of each row, by their indices.
    """

    def __init__(self, sequences: Sequences, rows: Sequence[Int64[np.ndarray, " in_row"]]):
        self.sequences, self.rows = sequences, rows
        inputs, slots = sequences.inputs, sequences.slots
        self._inputs = np.array([inputs[row].sum() for row in rows], np.int64)
        self._slots = np.array([slots[row].sum() for row in rows], np.int64)

    @property
    def inputs(self) -> Int64[np.ndarray, " n"]:
        """The number of tokens of each row that the model reads."""
        return self._inputs

    @property
    def slots(self) -> Int64[np.ndarray, " n"]:
        """The number of predicted tokens of each row."""
        return self._slots

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "Packed":
        """Some of the rows, in the order of `rows`."""
        return Packed(self.sequences, [self.rows[row] for row in rows])

    def slots_of_batch(self, used: int, batch_size: int, slot_multiple: int) -> int:
        """M, the label slots of a batch; see `Sequences.slots_of_batch`."""
        return self.sequences.slots_of_batch(used, batch_size, slot_multiple)

    def assemble(
        self, rows: Int64[np.ndarray, " rows"], batch_size: int, length: int, slots: int, share: Share = ALL
    ) -> Batch:
        """The batch of these rows, or a share of it."""
        first, last = share.span(batch_size)
        position_ids = np.zeros((last - first, length), np.int32)
        segment_ids = np.zeros_like(position_ids)
        places = []
        for row, number in enumerate(rows):
            at = 0
            for segment, sequence in enumerate(self.rows[number], start=1):
                places.append((row, at, int(sequence)))
                end = at + len(self.sequences[sequence]) - 1
                if first <= row < last:
                    position_ids[row - first, at:end] = np.arange(end - at)
                    segment_ids[row - first, at:end] = segment
                at = end
        return {
            **self.sequences.lay(places, batch_size, length, slots, share),
            "attention_mask": segment_ids > 0,
            "position_ids": position_ids,
            "segment_ids": segment_ids,
        }


def pack(sequences: Sequences, length: int, seed: int = 0) -> Packed:
    """Sequences in rows of at most `length` positions, each sequence in the fullest row that has room for it.

    The sequences are shuffled and packed in pools of some thousands, the longest of a pool first.

    Args:
        sequences: the sequences.
        length: positions of a row.
        seed: of the shuffle.

    Raises:
        UserError: a sequence is longer than a row.
    """
    inputs = sequences.inputs
    if len(inputs) and (longest := int(inputs.max())) > length:
        raise UserError(
            f"an example takes {longest} positions, and a row has {length}; it should be at least {longest}"
        )
    order = np.random.default_rng(seed).permutation(len(inputs))
    rows: list[list[int]] = []
    for start in range(0, len(order), _POOL):
        pool = order[start : start + _POOL]
        free: list[tuple[int, int]] = []  # the free positions and the number of each row that has some, ascending
        for sequence in pool[np.argsort(-inputs[pool], kind="stable")].tolist():
            need = int(inputs[sequence])
            found = bisect_left(free, (need, 0))
            room, row = free.pop(found) if found < len(free) else (length, len(rows))
            if row == len(rows):
                rows.append([])
            rows[row].append(sequence)
            if room > need:
                insort(free, (room - need, row))
    return Packed(sequences, [np.array(row, np.int64) for row in rows])
