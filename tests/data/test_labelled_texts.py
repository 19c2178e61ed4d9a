import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batches, Batching, batch_dataset
from hut_jax.data.labelled_texts import LabelledTexts
from hut_jax.parallel.processes import Share


def labelled(lengths, dtype=np.int32, pad_id=1):
    """Examples of which a token tells the example, and the label too."""
    ids = [[100 + i] * length for i, length in enumerate(lengths)]
    types = [[0] * (length // 2) + [1] * (length - length // 2) for length in lengths]
    return LabelledTexts(ids, types, np.arange(len(lengths), dtype=dtype), pad_id)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.integers(1, 9),
    st.booleans(),
    st.integers(1, 16),
    st.sampled_from([np.int32, np.float32]),
)
def test_an_epoch_holds_every_example_once_with_its_types_and_its_label(lengths, size, shuffle, multiple, dtype):
    batches = Batches(labelled(lengths, dtype), Batching(size, shuffle=shuffle, length_multiple=multiple))
    seen = []
    for step in range(batches.steps_per_epoch):
        batch = batches[step]
        assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["token_type_ids"].shape
        assert batch["labels"].shape == batch["weights"].shape == (size,)
        assert batch["labels"].dtype == dtype
        assert batch["attention_mask"].any(axis=1).all()
        for row in range(size):
            mask = batch["attention_mask"][row]
            if not batch["weights"][row]:
                assert (mask.sum(), batch["labels"][row]) == (1, 0)
                assert (batch["input_ids"][row] == 1).all()
                continue
            example = int(batch["labels"][row])
            assert (batch["input_ids"][row][mask] == 100 + example).all()
            assert batch["token_type_ids"][row].sum() == (lengths[example] + 1) // 2
            assert (batch["input_ids"][row][~mask] == 1).all()
            assert mask.sum() == lengths[example]
            seen.append(example)
    assert sorted(seen) == list(range(len(lengths)))


def test_a_batch_in_full():
    data = LabelledTexts([[0, 5, 2], [0, 6, 7, 2]], [[0, 0, 0], [0, 0, 1, 1]], np.array([1.5, -1.0], np.float32), 9)
    batch = Batches(data, Batching(3, shuffle=False, length_multiple=1))[0]
    np.testing.assert_array_equal(batch["input_ids"], [[0, 6, 7, 2], [0, 5, 2, 9], [9, 9, 9, 9]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch["labels"], [-1, 1.5, 0])
    np.testing.assert_array_equal(batch["weights"], [1, 1, 0])
    assert [array.dtype for array in batch.values()] == [np.int32, np.bool_, np.int32, np.float32, np.float32]


def test_the_report_counts_tokens_and_rows():
    report = Batches(labelled([4, 4, 2]), Batching(2, length_multiple=4, shuffle=False)).report()
    assert (report.steps, report.real_slots, report.shapes) == (2, 0.75, {(4, 2): 2})
    assert report.real_tokens == 10 / 16


def test_a_saved_position_continues_with_the_same_batches():
    dataset = batch_dataset(labelled(range(1, 21)), Batching(4, seed=1, epochs=2)).to_iter_dataset()
    straight = list(dataset)
    iterator = iter(dataset)
    for _ in range(7):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    again = iter(dataset)
    again.set_state(state)
    for batch, wanted in zip(list(again), straight[7:], strict=True):
        for name in wanted:
            np.testing.assert_array_equal(batch[name], wanted[name])


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="2 examples, 1 lists of token types and 2 labels"):
        LabelledTexts([[1], [2]], [[0]], np.zeros(2, np.int32), 0)
    with pytest.raises(UserError, match="example 1 has 0 tokens and 0 token types"):
        LabelledTexts([[1], []], [[0], []], np.zeros(2, np.int32), 0)
    with pytest.raises(UserError, match="example 0 has 1 tokens and 2 token types"):
        LabelledTexts([[1]], [[0, 1]], np.zeros(1, np.int32), 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_shares_put_together_are_the_batch(lengths, parts, rows):
    batching = Batching(parts * rows, shuffle=False)
    whole = Batches(labelled(lengths), batching)
    shared = [Batches(labelled(lengths), batching, Share(part, part + 1, parts)) for part in range(parts)]
    for step in range(len(lengths) // (parts * rows) + 1):
        for name, leaf in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([share[step][name] for share in shared]), leaf)
