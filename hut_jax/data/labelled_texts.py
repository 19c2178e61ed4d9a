"""Texts or pairs of texts as tokens, with one label each, for classification and regression."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32, Int64

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batch
from hut_jax.parallel.processes import ALL, Share


class LabelledTexts:
    """Examples for `hut_jax.data.batching`, each with tokens, token types and a label.

    A batch is a dict of arrays, with B rows of L positions:

        input_ids       [B, L] int32             the tokens, then `pad_id`
        attention_mask  [B, L] bool              which positions hold a token
        token_type_ids  [B, L] int32             which text of a pair a token belongs to, then zeros
        labels          [B]    int32 or float32  the class, or for regression the value
        weights         [B]    float32           1 for an example, 0 for an empty row

    Empty rows fill the last batch. They have one valid position and the label 0.

    Args:
        ids: the tokens of each example, at least one.
        types: their token types.
        labels: one for each example; integers are classes, floats are values of a regression.
        pad_id: the token that fills a row. RoBERTa derives its positions from it.

    Raises:
        UserError: an example has no tokens, no label, or not exactly one type for each token.
    """

    def __init__(
        self,
        ids: Sequence[Sequence[int] | np.ndarray],
        types: Sequence[Sequence[int] | np.ndarray],
        labels: Int32[np.ndarray, " n"] | Float32[np.ndarray, " n"],
        pad_id: int,
    ):
        if not len(ids) == len(types) == len(labels):
            raise UserError(f"{len(ids)} examples, {len(types)} lists of token types and {len(labels)} labels")
        for i, (tokens, kinds) in enumerate(zip(ids, types, strict=True)):
            if not len(tokens) or len(tokens) != len(kinds):
                raise UserError(f"example {i} has {len(tokens)} tokens and {len(kinds)} token types")
        self._ids = [np.asarray(tokens, np.int32) for tokens in ids]
        self._types = [np.asarray(kinds, np.int32) for kinds in types]
        self.labels = labels
        self.pad_id = pad_id
        self.inputs: Int64[np.ndarray, " n"] = np.array([len(tokens) for tokens in ids], np.int64)

    @property
    def slots(self) -> Int64[np.ndarray, " n"]:
        """The number of labels of each example, which is 1."""
        return np.ones(len(self), np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Int32[np.ndarray, " length"]:
        return self._ids[index]

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "LabelledTexts":
        """The examples with these indices, in this order."""
        ids, types = ([kept[row] for row in rows] for kept in (self._ids, self._types))
        return LabelledTexts(ids, types, self.labels[rows], self.pad_id)

    def slots_of_batch(self, used: int, batch_size: int, slot_multiple: int) -> int:
        """One label slot for each row, whatever the other arguments."""
        return batch_size

    def assemble(
        self, rows: Int64[np.ndarray, " rows"], batch_size: int, length: int, slots: int, share: Share = ALL
    ) -> Batch:
        """The batch of these examples, or a share of it, as the class describes it."""
        first, last = share.span(batch_size)
        rows = rows[first:last]
        input_ids = np.full((last - first, length), self.pad_id, np.int32)
        attention_mask = np.zeros(input_ids.shape, np.bool_)
        attention_mask[:, 0] = True
        token_type_ids = np.zeros_like(input_ids)
        labels = np.zeros(last - first, self.labels.dtype)
        weights = np.zeros(last - first, np.float32)
        for row, example in enumerate(rows):
            count = self.inputs[example]
            input_ids[row, :count] = self._ids[example]
            attention_mask[row, :count] = True
            token_type_ids[row, :count] = self._types[example]
        labels[: len(rows)] = self.labels[rows]
        weights[: len(rows)] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "labels": labels,
            "weights": weights,
        }
