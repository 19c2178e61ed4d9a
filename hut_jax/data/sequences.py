"""Token sequences that are predicted in part: prompts with their completions, or blocks of a text."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batch, round_up
from hut_jax.parallel.processes import ALL, Share


class Sequences:
    """Token sequences of any lengths, kept in one flat array. Sequences may overlap in it.

    A batch is a dict of arrays, with B rows of L positions and M label slots:

        input_ids       [B, L] int32    the sequence without its last token, then zeros
        attention_mask  [B, L] bool     which positions hold a token
        logits_at       [M]    int32    indices into B * L of the positions whose next token is predicted
        labels          [M]    int32    those next tokens
        weights         [M]    float32  1 for a label, 0 for an empty slot

    Args:
        tokens: all tokens.
        starts: where each sequence starts in `tokens`.
        ends: where each sequence ends, exclusive.
        loss_start: the index, within each sequence, of the first token that is predicted: at least 1, and below the
            sequence's length.

    Raises:
        UserError: a sequence predicts nothing, or its first token.
    """

    def __init__(
        self,
        tokens: Int32[np.ndarray, " tokens"],
        starts: Int64[np.ndarray, " n"],
        ends: Int64[np.ndarray, " n"],
        loss_start: Int32[np.ndarray, " n"],
    ):
        self.tokens, self.starts, self.ends, self.loss_start = tokens, starts, ends, loss_start
        bad = np.flatnonzero((loss_start < 1) | (loss_start >= self.lengths))
        if len(bad):
            i = bad[0]
            raise UserError(
                f"sequence {i} has {self.lengths[i]} tokens and is predicted from index {loss_start[i]} on; "
                f"it should be from 1 to {max(self.lengths[i] - 1, 1)}"
            )

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int]], loss_start: Sequence[int]) -> "Sequences":
        """The sequences of these lists of token ids. `loss_start` holds the index of each first predicted token.

        Raises:
            UserError: there are not as many indices as sequences, or an index is out of range.
        """
        if len(sequences) != len(loss_start):
            raise UserError(f"{len(sequences)} sequences and {len(loss_start)} values of loss_start")
        ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
        tokens = np.fromiter((token for sequence in sequences for token in sequence), np.int32)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        return cls(tokens, starts, ends, np.asarray(loss_start, np.int32))

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """The number of tokens of each sequence."""
        return self.ends - self.starts

    @property
    def inputs(self) -> Int64[np.ndarray, " n"]:
        """The number of tokens of each sequence that the model reads: all but the last."""
        return self.lengths - 1

    @property
    def slots(self) -> Int64[np.ndarray, " n"]:
        """The number of predicted tokens of each sequence."""
        return self.lengths - self.loss_start

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Int32[np.ndarray, " length"]:
        return self.tokens[self.starts[index] : self.ends[index]]

    def predicted(self, index: int) -> Int64[np.ndarray, " predicted"]:
        """The indices of the predicted tokens within a sequence."""
        return np.arange(self.loss_start[index], len(self[index]), dtype=np.int64)

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "Sequences":
        """Some of the sequences, in the order of `rows`."""
        return Sequences(self.tokens, self.starts[rows], self.ends[rows], self.loss_start[rows])

    def slots_of_batch(self, used: int, batch_size: int, slot_multiple: int) -> int:
        """M: `used` rounded up to a multiple of `slot_multiple` slots per row."""
        return round_up(used, slot_multiple * batch_size)

    def assemble(
        self, rows: Int64[np.ndarray, " rows"], batch_size: int, length: int, slots: int, share: Share = ALL
    ) -> Batch:
        """The batch of these sequences, or a share of it."""
        batch = self.lay([(row, 0, example) for row, example in enumerate(rows)], batch_size, length, slots, share)
        first, last = share.span(batch_size)
        attention_mask = np.zeros((last - first, length), np.bool_)
        attention_mask[:, 0] = True
        for row, example in enumerate(rows[first:last]):
            attention_mask[row, : len(self[example]) - 1] = True
        return {"input_ids": batch.pop("input_ids"), "attention_mask": attention_mask, **batch}

    def lay(
        self, places: Iterable[tuple[int, int, int]], batch_size: int, length: int, slots: int, share: Share = ALL
    ) -> dict[str, np.ndarray]:
        """A batch's arrays but for the mask, or a share of them.

        Args:
            places: a row, a position in it, and the sequence that begins there.
            batch_size: B.
            length: L.
            slots: M.
            share: the part of the batch to make.
        """
        (first_row, last_row), (first_slot, last_slot) = share.span(batch_size), share.span(slots)
        input_ids = np.zeros((last_row - first_row, length), np.int32)
        logits_at = np.zeros(last_slot - first_slot, np.int32)
        labels = np.zeros_like(logits_at)
        weights = np.zeros(logits_at.shape, np.float32)
        used = 0
        for row, at, example in places:
            tokens, predicted = self[example], self.predicted(example)
            if first_row <= row < last_row:
                input_ids[row - first_row, at : at + len(tokens) - 1] = tokens[:-1]
            # The labels of the example take the slots from `used` on. The share may hold some of them without the row.
            begin = max(used, first_slot)
            end = max(begin, min(used + len(predicted), last_slot))
            own, part = slice(begin - first_slot, end - first_slot), predicted[begin - used : end - used]
            logits_at[own] = row * length + at + part - 1  # the position of token p predicts token p + 1
            labels[own] = tokens[part]
            weights[own] = 1
            used += len(predicted)
        return {"input_ids": input_ids, "logits_at": logits_at, "labels": labels, "weights": weights}
