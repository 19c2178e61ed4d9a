import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batches, Batching
from hut_jax.data.e2e.csv_files import read_records
from hut_jax.data.e2e.dataset import encode_e2e
from hut_jax.data.packing import pack
from hut_jax.data.sequences import Sequences
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.parallel.processes import Share
from hut_jax.tasks.config import E2EData
from tests.data.test_batching import assert_same, sequences


@settings(max_examples=40, deadline=None)
@given(sequences(), st.integers(29, 70), st.integers(0, 9))
def test_every_sequence_is_whole_in_one_row(data, length, seed):
    packed = pack(data, length, seed)
    assert sorted(np.concatenate(packed.rows)) == list(range(len(data)))
    assert all(packed.inputs > 0)
    assert all(packed.inputs <= length)
    assert packed.inputs.sum() == data.inputs.sum()
    assert packed.slots.sum() == data.slots.sum()


@settings(max_examples=20, deadline=None)
@given(sequences(), st.integers(29, 70), st.integers(1, 4))
def test_a_batch_reads_and_predicts_what_the_sequences_do(data, length, size):
    packed = pack(data, length)
    for rows, batch in zip(*_epoch(packed, size), strict=True):
        ids, segments, places = (batch[name] for name in ("input_ids", "segment_ids", "position_ids"))
        for row, number in enumerate(rows):
            for segment, sequence in enumerate(packed.rows[number], start=1):
                own = segments[row] == segment
                np.testing.assert_array_equal(ids[row, own], data[sequence][:-1])
                np.testing.assert_array_equal(places[row, own], np.arange(own.sum()))
        np.testing.assert_array_equal(batch["attention_mask"], segments > 0)
        real = batch["weights"] > 0
        # Every token is unique and one more than the one before it.
        np.testing.assert_array_equal(ids.reshape(-1)[batch["logits_at"][real]] + 1, batch["labels"][real])
        numbers = np.concatenate([packed.rows[number] for number in rows])
        predicted = np.concatenate([data[number][data.loss_start[number] :] for number in numbers])
        np.testing.assert_array_equal(np.sort(batch["labels"][real]), np.sort(predicted))


def test_shares_put_together_are_the_batch():
    data = Sequences.from_lists([[1, 2, 3], [4, 5], [6, 7, 8, 9], [1, 2], [3, 4, 5]], [1, 1, 2, 1, 1])
    packed, batching = pack(data, 4), Batching(4, slot_multiple=2)
    whole = Batches(packed, batching)[0]
    parts = [Batches(packed, batching, Share(number, number + 1, 2))[0] for number in range(2)]
    assert_same({name: np.concatenate([part[name] for part in parts]) for name in whole}, whole)


def test_the_same_seed_packs_the_same_rows_and_another_seed_others():
    random = np.random.default_rng(0)
    data = Sequences.from_lists([list(range(1, n)) for n in random.integers(3, 20, 50)], [1] * 50)
    first, again, other = (pack(data, 32, seed).rows for seed in (0, 0, 1))
    assert [row.tolist() for row in first] == [row.tolist() for row in again]
    assert [row.tolist() for row in first] != [row.tolist() for row in other]


def test_some_rows_can_be_taken():
    data = Sequences.from_lists([[1, 2, 3], [4, 5], [6, 7, 8, 9]], [1, 1, 2])
    packed = pack(data, 3)
    taken = packed.take(np.array([1]))
    assert len(taken) == 1
    assert taken.inputs.tolist() == [packed.inputs[1]]
    assert taken.slots.tolist() == [packed.slots[1]]


def test_a_sequence_that_is_longer_than_a_row_is_refused():
    with pytest.raises(UserError, match="an example takes 3 positions, and a row has 2; it should be at least 3"):
        pack(Sequences.from_lists([[1, 2], [1, 2, 3, 4]], [1, 1]), 2)


@pytest.mark.full
def test_packed_e2e_has_few_positions_without_a_token(real_data, gpt2_folder):
    records = read_records(real_data / "e2e" / "trainset.csv")
    data = encode_e2e(records, load_tokenizer(gpt2_folder), 512).sequences
    before = Batches(data, Batching(8)).report()
    section = E2EData(pack=512)
    after = Batches(section.rows(data, 0), section.training(Batching(8))).report()
    assert before.real_tokens < 0.9
    assert len(before.shapes) > 10
    assert after.real_tokens > 0.97
    assert after.real_slots > 0.85
    assert len(after.shapes) <= 4


def _epoch(packed, size):
    batches = Batches(packed, Batching(size, length_multiple=8, slot_multiple=4))
    return batches.plan(0), [batches[step] for step in range(batches.steps_per_epoch)]
