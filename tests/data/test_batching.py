import json
from collections import Counter

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batches, Batching, batch_dataset
from hut_jax.data.e2e.csv_files import read_records
from hut_jax.data.e2e.dataset import encode_e2e
from hut_jax.data.sequences import Sequences
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.parallel.processes import Share


@st.composite
def sequences(draw):
    """Sequences whose every token is unique, so that a label says where it comes from."""
    lengths = draw(st.lists(st.integers(2, 30), min_size=1, max_size=40))
    starts = [draw(st.integers(1, length - 1)) for length in lengths]
    ends = np.cumsum(lengths)
    ids = [list(range(1 + end - length, 1 + end)) for end, length in zip(ends, lengths, strict=True)]
    return Sequences.from_lists(ids, starts)


def random_sequences(n=100, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(5, 60, n)
    ids = [random.integers(1, 1000, length).tolist() for length in lengths]
    return Sequences.from_lists(ids, [int(random.integers(1, length)) for length in lengths])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key])


OPTIONS = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "seed": st.integers(0, 2**32),
        "shuffle": st.booleans(),
        "length_multiple": st.integers(1, 16),
        "slot_multiple": st.integers(1, 16),
        "pool_batches": st.integers(1, 5),
    }
)


@settings(max_examples=40, deadline=None)
@given(sequences(), OPTIONS, st.integers(0, 3))
def test_an_epoch_predicts_every_completion_token_once_and_nothing_else(data, options, epoch):
    batches = Batches(data, Batching(**options))
    labels, rows_seen = [], 0
    for step in range(batches.steps_per_epoch):
        batch = batches[epoch * batches.steps_per_epoch + step]
        flat, mask = batch["input_ids"].ravel(), batch["attention_mask"]
        real = batch["weights"] == 1
        assert np.all(real | (batch["weights"] == 0))
        assert mask.any(axis=1).all()
        assert np.all(batch["logits_at"] < flat.size)
        # Every token is one more than that before it: a label follows the input that its logit is taken from.
        np.testing.assert_array_equal(flat[batch["logits_at"][real]] + 1, batch["labels"][real])
        assert mask.ravel()[batch["logits_at"][real]].all()
        assert not batch["labels"][~real].any()
        labels += batch["labels"][real].tolist()
        rows_seen += int((batch["input_ids"][:, 0] > 0).sum())
        shape = batch["input_ids"].shape
        assert shape[0] == options["batch_size"]
        assert shape[1] % options["length_multiple"] == 0 or shape[1] == data.lengths.max() - 1
    wanted = [token for i in range(len(data)) for token in data[i][data.loss_start[i] :].tolist()]
    assert sorted(labels) == wanted
    assert rows_seen == len(data)


@settings(max_examples=40, deadline=None)
@given(sequences(), OPTIONS, st.integers(0, 3))
def test_the_inputs_are_the_sequences_without_their_last_token(data, options, epoch):
    batches = Batches(data, Batching(**options))
    for step, rows in enumerate(batches.plan(epoch)):
        batch = batches[epoch * batches.steps_per_epoch + step]
        for row, example in enumerate(rows):
            inputs = batch["input_ids"][row][batch["attention_mask"][row]]
            np.testing.assert_array_equal(inputs, data[example][:-1])


@settings(max_examples=20, deadline=None)
@given(OPTIONS, st.integers(0, 5))
def test_the_order_is_a_function_of_seed_and_epoch(options, epoch):
    data = random_sequences()
    one, two = Batches(data, Batching(**options)), Batches(data, Batching(**options))
    for step in range(one.steps_per_epoch):
        two[step]  # another epoch looked at before makes no difference
    for step in range(one.steps_per_epoch):
        index = epoch * one.steps_per_epoch + step
        assert_same(one[index], two[index])


def test_epochs_and_seeds_differ_and_evaluation_does_not():
    data = random_sequences()

    def order(epoch, **options):
        return np.concatenate(Batches(data, Batching(4, **options)).plan(epoch)).tolist()

    assert order(0, seed=0) != order(1, seed=0)
    assert order(0, seed=0) != order(0, seed=1)
    assert order(0, shuffle=False) == order(1, shuffle=False, seed=1)
    lengths = data.lengths[order(0, shuffle=False)]
    assert np.all(np.diff(lengths) <= 0)


def test_one_pool_gives_batches_of_like_lengths_in_any_order():
    data = random_sequences(400)
    plan = Batches(data, Batching(4, pool_batches=1000)).plan(0)
    spans = [np.ptp(data.lengths[rows]) for rows in plan]
    assert np.mean(spans) < 2
    assert np.abs(np.diff([data.lengths[rows].mean() for rows in plan])).mean() > 5


def test_the_last_batch_is_filled_with_empty_rows():
    batch = Batches(Sequences.from_lists([[5, 6, 7]], [2]), Batching(3, slot_multiple=1))[0]
    np.testing.assert_array_equal(batch["input_ids"], [[5, 6], [0, 0], [0, 0]])
    np.testing.assert_array_equal(batch["attention_mask"], [[True, True], [True, False], [True, False]])
    np.testing.assert_array_equal(batch["logits_at"], [1, 0, 0])
    np.testing.assert_array_equal(batch["labels"], [7, 0, 0])
    np.testing.assert_array_equal(batch["weights"], [1, 0, 0])
    dtypes = [np.int32, np.bool_, np.int32, np.int32, np.float32]
    assert [array.dtype for array in batch.values()] == dtypes


def test_a_dataset_ends_after_its_epochs_or_never():
    data = random_sequences(10)
    assert len(list(batch_dataset(data, Batching(4, epochs=3)).to_iter_dataset())) == 9
    endless = batch_dataset(data, Batching(4))
    assert len(endless) > 2**60
    assert_same(endless[3 * 10**6], Batches(data, Batching(4))[3 * 10**6])


def test_a_saved_position_continues_with_the_same_batches(tmp_path):
    dataset = batch_dataset(random_sequences(), Batching(8, seed=3, epochs=4)).to_iter_dataset()
    straight = list(dataset)
    iterator = iter(dataset)
    for _ in range(18):  # in the middle of the second epoch
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(18, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        by_orbax = iter(dataset)
        manager.restore(18, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(by_orbax)))
    by_hand = iter(dataset)
    by_hand.set_state(state)
    for continued in (iterator, by_hand, by_orbax):
        rest = list(continued)
        assert len(rest) == len(straight) - 18
        for batch, wanted in zip(rest, straight[18:], strict=True):
            assert_same(batch, wanted)


def test_the_report_counts_what_the_batches_hold():
    batches = Batches(random_sequences(101), Batching(8))
    report = batches.report(1)
    made = [batches[batches.steps_per_epoch + step] for step in range(batches.steps_per_epoch)]
    shapes = Counter((batch["input_ids"].shape[1], batch["labels"].shape[0]) for batch in made)
    assert report.shapes == shapes
    assert report.steps == len(made) == 13
    slots = np.concatenate([batch["weights"] for batch in made])
    assert report.real_slots == pytest.approx(slots.mean())
    positions = sum(batch["attention_mask"].size for batch in made)
    real = sum(int(batch["attention_mask"].sum()) for batch in made) - 3  # the empty rows' one position
    assert report.real_tokens == pytest.approx(real / positions)


@pytest.mark.full
def test_e2e_wastes_little_in_few_shapes(real_data, gpt2_folder):
    records = read_records(real_data / "e2e" / "trainset.csv")
    report = Batches(encode_e2e(records, load_tokenizer(gpt2_folder), 512).sequences, Batching(8)).report()
    assert report.steps == 5258
    assert report.real_tokens > 0.85
    assert report.real_slots > 0.8
    assert len(report.shapes) <= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it should be at least 1"),
        ({"batch_size": 1, "epochs": 0}, "epochs is 0"),
        ({"batch_size": 1, "length_multiple": 0}, "length_multiple is 0"),
        ({"batch_size": 1, "slot_multiple": -1}, "slot_multiple is -1"),
        ({"batch_size": 1, "pool_batches": 0}, "pool_batches is 0"),
        ({"batch_size": 1, "seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        Batching(**options)


def test_no_examples():
    with pytest.raises(UserError, match="no examples"):
        batch_dataset(Sequences.from_lists([], []), Batching(1))


@pytest.mark.parametrize(("loss_start", "message"), [(0, "from index 0"), (3, "from 1 to 2")])
def test_a_sequence_has_to_predict_something_after_its_first_token(loss_start, message):
    with pytest.raises(UserError, match=message):
        Sequences.from_lists([[1, 2], [1, 2, 3]], [1, loss_start])
    with pytest.raises(UserError, match="1 sequences and 0 values"):
        Sequences.from_lists([[1, 2]], [])


@settings(max_examples=40, deadline=None)
@given(sequences(), OPTIONS, st.integers(1, 4), st.integers(0, 3))
def test_shares_put_together_are_the_batch(data, options, parts, number):
    options["batch_size"] *= parts
    whole = Batches(data, Batching(**options))[number]
    shares = [Batches(data, Batching(**options), Share(part, part + 1, parts))[number] for part in range(parts)]
    assert_same({name: np.concatenate([share[name] for share in shares]) for name in whole}, whole)
    if parts == 4:
        assert_same(
            {name: leaf[len(leaf) // 4 : 3 * len(leaf) // 4] for name, leaf in whole.items()},
            Batches(data, Batching(**options), Share(1, 3, 4))[number],
        )


def test_evaluation_takes_each_example_once_in_the_shapes_of_training():
    batching = Batching(4, seed=3, length_multiple=8, slot_multiple=2).for_evaluation(6)
    assert batching == Batching(6, seed=3, shuffle=False, epochs=1, length_multiple=8, slot_multiple=2)
    assert len(Batches(random_sequences(10), batching)) == 2
