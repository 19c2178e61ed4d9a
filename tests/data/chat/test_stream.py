import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batching
from hut_jax.data.chat import stream
from hut_jax.data.chat.encoding import Encoder
from hut_jax.data.chat.lines import Lines
from hut_jax.data.chat.stream import Packing
from hut_jax.parallel.processes import ALL, Share

ROW = 24


@pytest.fixture(scope="module")
def encode(tiny_tokenizer, write):
    words = ["river", "hill", "gate", "stone", "captain", "the", "by", "near", "with", "and"]
    random = np.random.default_rng(0)

    def some():
        return " ".join(random.choice(words, random.integers(1, 5)))

    examples = [{"prompt": some(), "completion": f" {some()}"} for _ in range(60)]
    return Encoder(Lines(write(examples)), tiny_tokenizer, ROW)


def read(packing, *, share=ALL, **options):
    return list(packing.batches(Batching(4, **{"epochs": 1} | options), share))


def texts(batches):
    """The tokens of each segment, with those that are labels."""
    found = Counter()
    for batch in batches:
        slots = batch["weights"] > 0
        at = batch["logits_at"][slots] - batch["first"] * ROW if "first" in batch else batch["logits_at"][slots]
        label = np.full(batch["input_ids"].size, -1)
        label[at] = batch["labels"][slots]
        label = label.reshape(batch["input_ids"].shape)
        for row, segments in enumerate(batch["segment_ids"]):
            for segment in range(1, segments.max() + 1):
                own = segments == segment
                np.testing.assert_array_equal(batch["position_ids"][row, own], np.arange(own.sum()))
                found[tuple(batch["input_ids"][row, own]), tuple(label[row, own])] += 1
        np.testing.assert_array_equal(batch["attention_mask"], batch["segment_ids"] > 0)
    return found


def expected(encode, indices):
    found = Counter()
    for index in indices:
        ((tokens, learned),) = encode(index)
        found[tuple(tokens[:-1]), tuple(np.where(learned[1:], tokens[1:], -1))] += 1
    return found


def test_an_epoch_has_every_example_once_with_its_labels(encode):
    packing = Packing(encode, 5, 55, ROW)
    batches = read(packing)
    assert texts(batches) == expected(encode, range(5, 55))
    full = np.mean([batch["attention_mask"].mean() for batch in batches[:-1]])
    assert full > 0.8
    assert abs(len(packing) - 4 * len(batches)) <= 4
    assert {batch["input_ids"].shape for batch in batches} == {(4, ROW)}
    assert packing.describe().startswith("50 training examples in about ")


def test_the_order_is_of_the_seed_and_each_epoch_has_its_own(encode):
    packing = Packing(encode, 0, 60, ROW)
    first, again, other = (read(packing, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0]["input_ids"], other[0]["input_ids"])
    two = read(packing, epochs=2)
    assert texts(two) == expected(encode, [*range(60), *range(60)])
    assert not np.array_equal(two[len(first)]["input_ids"], first[0]["input_ids"])


def test_of_endless_batches_as_training_reads_them_each_epoch_has_every_example_once(encode, monkeypatch):
    monkeypatch.setattr(stream, "_POOL", 4)  # several pools
    packing = Packing(encode, 0, 60, ROW)
    epoch = sum(len(batch["attention_mask"][batch["attention_mask"].any(1)]) for batch in read(packing))
    batches = iter(packing.batches(Batching(1), ALL))
    rows = [texts([next(batches)]) for _ in range(3 * epoch)]
    wanted, seen, done = expected(encode, range(60)), Counter(), 0
    for row in rows:
        seen += row
        done += seen == wanted
        seen = Counter() if seen == wanted else seen
        assert seen <= wanted  # none again before all were there
    assert done >= 2
    assert abs(len(packing) - epoch) <= 0.1 * epoch


def test_a_saved_position_continues_with_the_same_batches(encode):
    packing = Packing(encode, 0, 60, ROW)
    batches = iter(packing.batches(Batching(4), ALL))
    for steps in (3, 1, packing._rows // 4 + 2):  # within a pool, and past the end of an epoch
        for _ in range(steps):
            next(batches)
        state = batches.get_state()
        wanted = [next(batches)["input_ids"] for _ in range(4)]
        again = iter(packing.batches(Batching(4), ALL))
        again.set_state(json.loads(json.dumps(state)))
        for ids in wanted:
            np.testing.assert_array_equal(next(again)["input_ids"], ids)


def test_each_process_reads_its_own_examples(encode):
    packing = Packing(encode, 0, 60, ROW)
    shares = [read(packing, share=Share(part, part + 1, 2)) for part in range(2)]
    for part, batches in enumerate(shares):
        for batch in batches:
            assert batch["input_ids"].shape == (2, ROW)
            assert batch["labels"].shape == (2 * ROW,)  # none knows how many labels the other has
            batch["first"] = 2 * part
    assert texts([*shares[0], *shares[1]]) == expected(encode, range(60))


def test_examples_of_which_nothing_is_left_are_left_out(tiny_tokenizer, write):
    encode = Encoder(Lines(write([{"prompt": "a " * 30, "completion": "b"}, {"text": "c d"}])), tiny_tokenizer, ROW)
    assert sum(texts(read(Packing(encode, 0, 2, ROW))).values()) == 1
    with pytest.raises(UserError, match=r"none of 1 examples has a token to learn .*raise config\.data\.max_length"):
        Packing(encode, 0, 1, ROW)


@pytest.mark.full
def test_memory_does_not_grow_with_the_file(tiny_tokenizer, write):
    def peak(count):
        path = write([{"prompt": "the river", "completion": " by the hill"}] * count)
        tracemalloc.start()
        batches = iter(Packing(Encoder(Lines(path), tiny_tokenizer, ROW), 0, count, ROW).batches(Batching(4), ALL))
        for _ in range(5):
            next(batches)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2000)
    small, large = peak(2000), peak(200_000)  # 12 MB
    assert large < small + 4e6
