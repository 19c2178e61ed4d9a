import re

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.e2e.csv_files import FILES, read_records
from hut_jax.data.e2e.dataset import references
from hut_jax.data.e2e.restaurants import facts_in, parse_mr, write_restaurants
from hut_jax.data.e2e.restaurants.__main__ import main
from hut_jax.data.e2e.restaurants.words import SLOTS


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("restaurants")
    write_restaurants(folder, seed=0, train=300, validation=40, test=50)
    return {split: read_records(folder / name) for split, name in FILES.items()}


def test_the_counts_are_of_meanings_that_no_two_splits_share(splits):
    grouped = {split: references(records) for split, records in splits.items()}
    assert {split: len(group) for split, group in grouped.items()} == {"train": 300, "validation": 40, "test": 50}
    assert len(set().union(*grouped.values())) == 390
    for split, count in (("train", 1), ("validation", 4), ("test", 4)):
        assert all(len(set(texts)) == count for texts in grouped[split].values())


def test_a_text_says_every_value_and_no_other(splits):
    slots_seen = set()
    for mr, text in (record for records in splits.values() for record in records):
        assert facts_in(text) == {slot: {value} for slot, value in parse_mr(mr).items()}, text
        slots_seen |= set(parse_mr(mr))
        assert text[0].isupper()
        assert text.endswith(".")
        assert "  " not in text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
    assert slots_seen == set(SLOTS)


def test_names_and_landmarks_of_the_held_out_splits_share_no_word_with_training(splits):
    words = {
        split: {
            word
            for record in records
            for slot in ("name", "near")
            for word in parse_mr(record.mr).get(slot, "").split()
        }
        - {"The", "and"}
        for split, records in splits.items()
    }
    assert not words["train"] & (words["validation"] | words["test"])
    names = {split: {parse_mr(record.mr)["name"] for record in records} for split, records in splits.items()}
    assert not names["validation"] & names["test"]


def test_the_texts_vary(splits):
    texts = [record.ref for record in splits["train"]]
    assert len(set(texts)) > 0.98 * len(texts)
    assert len({text.split()[0] for text in texts}) > 20


def test_the_seed_decides(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_restaurants(tmp_path / folder, seed=seed, train=20, validation=5, test=5)
    for name in FILES.values():
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b
        assert a != c


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="test is 0"):
        write_restaurants(tmp_path, seed=0, test=0)
    with pytest.raises(UserError, match="the most is 100000"):
        write_restaurants(tmp_path, seed=0, train=100_000)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write restaurants to"):
        write_restaurants(tmp_path / "file", seed=0)


def test_the_command_writes_the_same(tmp_path):
    write_restaurants(tmp_path / "a", seed=3, train=9, validation=2, test=2)
    counts = ["--train=9", "--validation=2", "--test=2"]
    main([f"--output={tmp_path / 'b'}", "--seed=3", *counts])
    for name in FILES.values():
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_embedded_data_is_what_its_command_writes(tmp_path, request):
    main([f"--output={tmp_path}", "--seed=3"])
    for name in FILES.values():
        assert (tmp_path / name).read_bytes() == (request.config.rootpath / "assets/restaurants" / name).read_bytes()
