from random import Random

import pytest

from experiments.bases.records import NOTATIONS, make_record, mix, say, words_of
from hut_jax.core.errors import UserError


def test_words_are_whole_common_and_lower_case(wordy_text):
    words = words_of(wordy_text)
    assert len(words) == 144
    assert "once" not in words
    assert words == sorted(words)


def test_every_value_of_a_record_is_said_as_it_stands(wordy_text):
    random, words = Random(0), words_of(wordy_text)
    for _ in range(200):
        record = make_record(random, words)
        said = say(random, record)
        assert all(value in said for value in record.values()), said
        assert all(all(value in notation(record) for value in record.values()) for notation in NOTATIONS)


def test_a_mixture_has_records_and_pages_of_the_text(wordy_text):
    documents = list(mix(wordy_text, Random(0), size=8000, page=200))
    assert 8000 <= sum(map(len, documents)) < 9500
    original = wordy_text.read_text()
    pages = [document for document in documents if document in original]
    assert 0.15 < sum(map(len, pages)) / sum(map(len, documents)) < 0.35
    assert documents == list(mix(wordy_text, Random(0), size=8000, page=200))
    assert documents != list(mix(wordy_text, Random(1), size=8000, page=200))


def test_a_text_that_is_too_short_is_named(wordy_text, tmp_path):
    with pytest.raises(UserError, match="too short for 1000000 characters"):
        list(mix(wordy_text, Random(0), size=1_000_000, page=200))
    (tmp_path / "few.txt").write_text("a few words " * 9)
    with pytest.raises(UserError, match="2 words that occur five times; at least 100"):
        words_of(tmp_path / "few.txt")
