"""Examples -> padded batches of few shapes, in an order that is a function of the seed and the epoch."""

import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol, SupportsIndex

import grain
import numpy as np
from jaxtyping import Int32, Int64

from hut_jax.core.errors import UserError
from hut_jax.parallel.processes import ALL, Share

Batch = dict[str, np.ndarray]

# Measured on E2E's training set with GPT-2's tokens in batches of 8: 88% of positions hold a token and 86% of slots
# a label, in 14 shapes an epoch.
LENGTH_MULTIPLE = 16
SLOT_MULTIPLE = 8
POOL_BATCHES = 64


class Examples(Protocol):
    """What batches are made of: `Sequences`, or texts with a label (`hut_jax.data.labelled`)."""

    @property
    def inputs(self) -> Int64[np.ndarray, " n"]:
        """Positions that each example takes."""

    @property
    def slots(self) -> Int64[np.ndarray, " n"]:
        """Labels that each example has."""

    def __len__(self) -> int: ...

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "Examples":
        """Some of the examples, in the order of `rows`."""

    def slots_of_batch(self, used: int, batch_size: int, slot_multiple: int) -> int:
        """M, the label slots of a batch whose examples have `used` labels."""

    def assemble(
        self, rows: Int64[np.ndarray, " rows"], batch_size: int, length: int, slots: int, share: Share = ALL
    ) -> Batch:
        """The batch of these examples, with B rows of L positions and M label slots; or a share of it."""


class Sequences:
    """Token sequences of any lengths, kept in one flat array; they may overlap in it.

    Args:
        tokens: all tokens.
        starts: where each sequence starts in `tokens`.
        ends: where it ends, exclusive.
        loss_start: the index, within each sequence, of the first token that is predicted: at least 1, and below the
            sequence's length, so that every sequence has something to learn.

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
        """From one list of ids and one first predicted index a sequence."""
        if len(sequences) != len(loss_start):
            raise UserError(f"{len(sequences)} sequences and {len(loss_start)} values of loss_start")
        ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
        tokens = np.fromiter((token for sequence in sequences for token in sequence), np.int32)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        return cls(tokens, starts, ends, np.asarray(loss_start, np.int32))

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """Tokens of each sequence."""
        return self.ends - self.starts

    @property
    def inputs(self) -> Int64[np.ndarray, " n"]:
        """Tokens of each sequence that are read: all but the last."""
        return self.lengths - 1

    @property
    def slots(self) -> Int64[np.ndarray, " n"]:
        """Tokens of each sequence that are predicted."""
        return self.lengths - self.loss_start

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Int32[np.ndarray, " length"]:
        return self.tokens[self.starts[index] : self.ends[index]]

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "Sequences":
        """Some of the sequences, in the order of `rows`."""
        return Sequences(self.tokens, self.starts[rows], self.ends[rows], self.loss_start[rows])

    def slots_of_batch(self, used: int, batch_size: int, slot_multiple: int) -> int:
        """M: `used` rounded up to a multiple of `slot_multiple` slots a row."""
        return _round_up(used, slot_multiple * batch_size)

    def assemble(
        self, rows: Int64[np.ndarray, " rows"], batch_size: int, length: int, slots: int, share: Share = ALL
    ) -> Batch:
        """The batch of these sequences, or a share of it: see `batch_dataset`."""
        (first_row, last_row), (first_slot, last_slot) = share.span(batch_size), share.span(slots)
        input_ids = np.zeros((last_row - first_row, length), np.int32)
        attention_mask = np.zeros(input_ids.shape, np.bool_)
        attention_mask[:, 0] = True
        logits_at = np.zeros(last_slot - first_slot, np.int32)
        labels = np.zeros_like(logits_at)
        weights = np.zeros(logits_at.shape, np.float32)
        used = 0
        for row, example in enumerate(rows):
            tokens = self[example]
            first = self.loss_start[example]
            if first_row <= row < last_row:
                input_ids[row - first_row, : len(tokens) - 1] = tokens[:-1]
                attention_mask[row - first_row, : len(tokens) - 1] = True
            # The example's labels take the slots from `used` on; some of them may be in the share without its row.
            begin = max(used, first_slot)
            end = max(begin, min(used + len(tokens) - first, last_slot))
            own = slice(begin - first_slot, end - first_slot)
            places = first + np.arange(begin - used, end - used)
            logits_at[own] = row * length + places - 1  # position p of the row predicts token p + 1
            labels[own] = tokens[places]
            weights[own] = 1
            used += len(tokens) - first
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "logits_at": logits_at,
            "labels": labels,
            "weights": weights,
        }


class PaddingReport(NamedTuple):
    """What one epoch's batches look like.

    `real_tokens` is the share of input positions that hold a token, `real_slots` the share of label slots that hold
    a label, `shapes` how often each pair (L, M) occurs.
    """

    steps: int
    real_tokens: float
    real_slots: float
    shapes: dict[tuple[int, int], int]


class Batches:
    """Batch number i of an endless or finite run over the examples: random access, without state.

    Epoch e's order depends on (seed, e) alone: the examples are shuffled, cut into pools, sorted by length within
    each pool, cut into batches, and the batches shuffled. Every example comes once an epoch. Where the last batch is
    not full, empty rows fill it: they hold one valid position, so that no softmax is over nothing, and no label.

    The arguments are those of `batch_dataset`.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = None,
        length_multiple: int = LENGTH_MULTIPLE,
        slot_multiple: int = SLOT_MULTIPLE,
        pool_batches: int = POOL_BATCHES,
        share: Share = ALL,
    ):
        if not len(examples):
            raise UserError("there are no examples to make batches of")
        counts = {
            "batch_size": batch_size,
            "epochs": 1 if epochs is None else epochs,
            "length_multiple": length_multiple,
            "slot_multiple": slot_multiple,
            "pool_batches": pool_batches,
        }
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"{name} is {value}; it should be at least 1")
        if seed < 0:
            raise UserError(f"seed is {seed}; it should be at least 0")
        self.steps_per_epoch = -(-len(examples) // batch_size)
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        # len() can say no more than sys.maxsize; that many epochs have no end.
        self._epochs = epochs if epochs is not None else 2**62 // self.steps_per_epoch
        self._length_multiple = length_multiple
        self._slot_multiple = slot_multiple
        self._pool = pool_batches * batch_size
        self._share = share
        self._inputs = examples.inputs
        self._labels = examples.slots
        self._lock = threading.Lock()
        self._plan: tuple[int, list[np.ndarray]] | None = None

    def __len__(self) -> int:
        return self.steps_per_epoch * self._epochs

    def __getitem__(self, index: SupportsIndex) -> Batch:
        epoch, step = divmod(index.__index__(), self.steps_per_epoch)
        rows = self.plan(epoch)[step]
        return self._examples.assemble(rows, self._batch_size, *self._shape(rows), self._share)

    def plan(self, epoch: int) -> list[Int64[np.ndarray, " rows"]]:
        """The examples of each batch of the epoch, by number."""
        if not self._shuffle:
            epoch = 0
        with self._lock:  # grain reads from several threads
            if self._plan is None or self._plan[0] != epoch:
                self._plan = epoch, self._make_plan(epoch)
            return self._plan[1]

    def report(self, epoch: int = 0) -> PaddingReport:
        """Steps, padding and shapes of one epoch, without making its batches."""
        shapes: dict[tuple[int, int], int] = {}
        for rows in self.plan(epoch):
            shape = self._shape(rows)
            shapes[shape] = shapes.get(shape, 0) + 1
        positions = sum(length * self._batch_size * count for (length, _), count in shapes.items())
        slots = sum(slot * count for (_, slot), count in shapes.items())
        return PaddingReport(
            self.steps_per_epoch,
            float(self._inputs.sum() / positions),
            float(self._labels.sum() / slots),
            dict(sorted(shapes.items())),
        )

    def _make_plan(self, epoch: int) -> list[np.ndarray]:
        n, size = len(self._inputs), self._batch_size
        if not self._shuffle:  # the longest first: what does not fit in memory fails at once
            order = np.argsort(-self._inputs, kind="stable")
            return [order[i : i + size] for i in range(0, n, size)]
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(n)
        batches = []
        for start in range(0, n, self._pool):
            pool = order[start : start + self._pool]
            pool = pool[np.argsort(self._inputs[pool], kind="stable")]
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _shape(self, rows: np.ndarray) -> tuple[int, int]:
        # Nothing is padded past the longest example, which may be as long as the model allows.
        length = min(_round_up(self._inputs[rows].max(), self._length_multiple), int(self._inputs.max()))
        slots = self._examples.slots_of_batch(self._labels[rows].sum(), self._batch_size, self._slot_multiple)
        return length, min(slots, self._batch_size * length)


def batch_dataset(
    examples: Examples,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    epochs: int | None = None,
    length_multiple: int = LENGTH_MULTIPLE,
    slot_multiple: int = SLOT_MULTIPLE,
    pool_batches: int = POOL_BATCHES,
    share: Share = ALL,
) -> grain.MapDataset:
    """Batches of the examples, numbered through all epochs; `.to_iter_dataset()` gives them with a position to save.

    A batch of sequences is a dict of arrays, with B rows of L positions and M label slots:

        input_ids       [B, L] int32    the sequence without its last token, then zeros
        attention_mask  [B, L] bool     which positions hold a token
        logits_at       [M]    int32    positions, counted through B * L, whose next token is predicted
        labels          [M]    int32    those next tokens
        weights         [M]    float32  1 for a label, 0 for an empty slot

    Args:
        examples: sequences, or texts with a label.
        batch_size: B.
        seed: of the order, with the epoch's number.
        shuffle: False, for evaluation, gives the same batches each epoch, the longest first.
        epochs: how many; None has no end.
        length_multiple: L is rounded up to a multiple of this, but not past the longest example.
        slot_multiple: M is rounded up to a multiple of this many slots a row.
        pool_batches: batches whose examples are sorted by length together: more waste less and mix less.
        share: of each batch; one of several processes makes only what its own devices take. B and M are multiples of
            its parts.

    Raises:
        UserError: there are no examples, or a number is out of range.
    """
    return grain.MapDataset.source(
        Batches(
            examples,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            epochs=epochs,
            length_multiple=length_multiple,
            slot_multiple=slot_multiple,
            pool_batches=pool_batches,
            share=share,
        )
    )


def evenly_spread(there: int, most: int) -> Int64[np.ndarray, "some"]:
    """The places of `most` of so many things, the first and the last among them; 0, or more than there are: of all."""
    return np.linspace(0, there - 1, most, dtype=np.int64) if 0 < most < there else np.arange(there)


def _round_up(number: int, multiple: int) -> int:
    return int(-(-number // multiple) * multiple)
