import re

import pytest

from experiments.bases.copying import FILES, main, short_words, write_texts
from hut_jax.core.errors import UserError
from hut_jax.data.e2e.csv_files import FILES as SPLITS
from hut_jax.data.e2e.csv_files import read_records
from hut_jax.data.e2e.restaurants import parse_mr
from hut_jax.data.text.files import SEPARATOR

TINY = "assets/tiny"


@pytest.fixture(autouse=True)
def at_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture(scope="module")
def folder(wordy_text, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("copying")
    write_texts(wordy_text, request.config.rootpath / TINY, folder, sizes=(3000, 6000, 15_000))
    return folder


def documents(path):
    return path.read_text(encoding="utf-8").split(f"\n{SEPARATOR}\n")[:-1]


def test_short_words_are_one_token_each():
    from hut_jax.data.tokenizer import load_tokenizer

    words, tokenizer = short_words(TINY), load_tokenizer(TINY)
    assert len(words) > 500
    assert {len(ids) for ids in tokenizer.encode_batch(f" {word}" for word in words)} == {1}


def test_the_first_text_repeats_lists_of_words_four_times(folder):
    for document in documents(folder / "words.txt"):
        words = document.split()
        quarter = len(words) // 4
        assert words == words[:quarter] * 4
        assert len(set(words)) == quarter


def test_the_second_text_repeats_phrases_and_has_pages(folder, wordy_text):
    original, pages = wordy_text.read_text(), 0
    for document in documents(folder / "phrases.txt"):
        if document in original:
            pages += 1
            continue
        words = re.findall(r"\w+", document)
        assert min(map(words.count, words)) >= 2, document
    assert pages


def test_the_third_text_has_records_pages_and_phrases_of_the_second(folder):
    phrases = set(documents(folder / "phrases.txt"))
    third = documents(folder / "records.txt")
    assert 0.2 < sum(document in phrases for document in third) / len(third) < 0.5
    assert any(re.search(r"name\[\w", document) for document in third)


def test_the_same_arguments_give_the_same_files(folder, wordy_text, tmp_path):
    write_texts(wordy_text, TINY, tmp_path, sizes=(3000, 6000, 15_000))
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_mistakes_are_told(wordy_text, tmp_path):
    with pytest.raises(UserError, match=r"vocab\.json"):
        main([f"--text={wordy_text}", f"--tokenizer={tmp_path}", f"--output={tmp_path}"])
    with pytest.raises(UserError, match="too short for 36000000 characters"):
        main([f"--text={wordy_text}", f"--tokenizer={TINY}", f"--output={tmp_path}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_no_held_out_restaurant_stands_in_what_the_base_was_made_from(real_data, tmp_path):
    import lzma

    books = real_data / "text/books.txt.xz"
    write_texts(books, TINY, tmp_path)
    with lzma.open(books, "rt", encoding="utf-8") as file:
        texts = [str(file.read())]
    texts += [(tmp_path / name).read_text(encoding="utf-8") for name in FILES]
    read = {split: read_records(f"assets/restaurants/{name}") for split, name in SPLITS.items()}
    held_out = {parse_mr(record.mr)["name"].lower() for split in ("validation", "test") for record in read[split]}
    assert len(held_out) > 150

    def named(text):
        flat = " ".join(text.lower().split())
        return [name for name in held_out if name in flat]

    assert not any(map(named, texts))
    # The search finds what is there.
    assert named(f"They dined\nat the {next(iter(held_out)).upper()}.")
