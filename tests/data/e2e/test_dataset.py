import functools
import http.server
import os
import threading

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.e2e.csv_files import FILES, Record, read_records
from hut_jax.data.e2e.dataset import encode_e2e, encode_prompts, load_e2e, references
from hut_jax.data.e2e.restaurants import write_restaurants


@pytest.fixture
def folder(tmp_path):
    write_restaurants(tmp_path / "data", seed=0, train=20, validation=5, test=5)
    return tmp_path / "data"


def test_the_splits_are_the_files_in_their_order(folder, tmp_path, capfd):
    wanted = {split: read_records(folder / name) for split, name in FILES.items()}
    for _ in ("prepared", "found again"):
        assert load_e2e(folder, cache_dir=tmp_path / "cache") == wanted
    assert capfd.readouterr() == ("", "")


def test_only_the_splits_and_the_records_asked_for(folder, tmp_path):
    rows = {split: read_records(folder / name) for split, name in FILES.items()}
    cache = tmp_path / "cache"
    assert load_e2e(folder, cache_dir=cache, splits=["test"]) == {"test": rows["test"]}
    few = load_e2e(folder, cache_dir=cache, splits=["train", "validation"], most={"train": 3, "validation": 0})
    assert few["validation"] == rows["validation"]
    train, middle = rows["train"], (len(rows["train"]) - 1) // 2
    assert few["train"] == [train[0], train[middle], train[-1]]
    assert load_e2e(folder, cache_dir=cache, splits=["train"], most={"train": 10**6}) == {"train": train}


def test_it_is_prepared_once_for_each_content(folder, tmp_path, monkeypatch):
    from hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder import Builder

    prepared = []
    original = Builder._split_generators
    monkeypatch.setattr(Builder, "_split_generators", lambda self, dl: prepared.append(self.name) or original(self, dl))
    cache = tmp_path / "cache"
    load_e2e(folder, cache_dir=cache)
    before = load_e2e(folder, cache_dir=cache)
    assert len(prepared) == 1
    dev = folder / "devset.csv"
    dev.write_text(dev.read_text(encoding="utf-8").replace("is ", "was ", 1), encoding="utf-8")
    after = load_e2e(folder, cache_dir=cache)
    assert len(prepared) == 2
    assert after["train"] == before["train"]
    assert after["validation"] != before["validation"]
    assert after["validation"] == read_records(dev)


def test_two_processes_may_prepare_at_once(folder, tmp_path, monkeypatch):
    from hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder import Builder

    original = Builder._split_generators
    other = []

    def while_another_does(self, dl_manager):
        if not other:  # all that the other process does falls into the time of this one
            other.append(True)
            load_e2e(folder, cache_dir=tmp_path / "cache")
        return original(self, dl_manager)

    monkeypatch.setattr(Builder, "_split_generators", while_another_does)
    assert load_e2e(folder, cache_dir=tmp_path / "cache")["test"] == read_records(folder / "testset_w_refs.csv")
    assert other


def test_bom_crlf_other_columns_and_newlines_in_cells(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeffid,ref,mr\r\n1,"two\r\nlines, ""quoted""",name[Ä]\r\n\r\n2, b ,c\r\n'.encode())
    assert read_records(path) == [("name[Ä]", 'two\r\nlines, "quoted"'), ("c", " b ")]


@pytest.mark.parametrize("text", ["mr,ref,orig_mr\na,b,a\n", ",mr,ref\n0,a,b\n"])
def test_the_cleaned_data_and_an_index_column_are_read(text, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    assert read_records(tmp_path / "x.csv") == [("a", "b")]


BAD = [
    (b"", "is empty; a header line mr,ref"),
    (b"\xef\xbb\xbf", "is empty"),
    (b"mr,ref\r\n", "has a header and no rows"),
    (b"MR,ref\na,b\n", "line 1: no column 'mr'; found 'MR', 'ref', wanted 'mr', 'ref'"),
    (b"meaning_representation,human_reference\na,b\n", "found 'meaning_representation', 'human_reference', wanted"),
    (b"mr, ref\na,b\n", "line 1: no column 'ref'; found 'mr', ' ref'"),
    (b"mr;ref\na;b\n", "line 1: no column 'mr'; found 'mr;ref', wanted 'mr', 'ref'"),
    (b"mr,mr,ref\na,b,c\n", "line 1: more than one column 'mr'"),
    (b'mr,ref\na,"b\nb"\na,b,c\n', "line 4: 3 fields where the header has 2"),
    (b"mr,ref\na,b\na\n", "line 3: 1 fields where the header has 2"),
    (b"mr,ref\na,b\n , c\n", "line 3: mr is empty"),
    (b"mr,ref\na,\n", "line 2: ref is empty"),
    (b"\xef\xbb\xbfmr,ref\r\na,b\r\na,\xff\r\n", "line 3: not UTF-8"),
    (b'mr,ref\na,b\na,"never closed\nc,d\n', "line 3: malformed CSV"),
    (b'mr,ref\na,"b"c\n', "line 2: malformed CSV"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_malformed_file_is_told_before_anything_is_prepared(folder, tmp_path, content, message):
    (folder / "devset.csv").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_e2e(folder, cache_dir=tmp_path / "cache")
    assert message in str(caught.value)
    assert str(folder / "devset.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_missing_folder_and_files(folder, tmp_path):
    with pytest.raises(UserError, match=r"no folder '.*absent'; give one with trainset\.csv, devset\.csv"):
        load_e2e(tmp_path / "absent")
    (folder / "devset.csv").rename(folder / "dev.csv")
    with pytest.raises(UserError, match=r"lacks devset.csv; CSV files to rename: dev.csv, testset_w_refs.csv, tr"):
        load_e2e(folder)
    for path in folder.iterdir():
        path.rename(folder / f"{path.stem}.txt")
    with pytest.raises(UserError, match=r"lacks trainset.csv, .*_refs.csv; to download them, leave config.data.dir e"):
        load_e2e(folder)


def test_a_cache_that_cannot_be_made_or_read(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot use the cache .*file/cache"):
        load_e2e(folder, cache_dir=tmp_path / "file" / "cache")
    load_e2e(folder, cache_dir=tmp_path / "cache")
    (damaged,) = (tmp_path / "cache").rglob("*test.array_record*")
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(UserError, match=r"prepared test split in .* cannot be read .*; delete that folder") as caught:
        load_e2e(folder, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_without_permission(folder, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot use the cache"):
        load_e2e(folder, cache_dir=tmp_path / "cache")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(folder, monkeypatch):
    """The folder's files where the official ones would be, over HTTP."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/"
        monkeypatch.setattr("hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder.URL", url)
        yield running
        running.shutdown()


def test_without_a_folder_the_files_are_downloaded_once(folder, tmp_path, server):
    wanted = {split: read_records(folder / name) for split, name in FILES.items()}
    assert load_e2e(None, cache_dir=tmp_path / "cache") == wanted
    for name in FILES.values():
        (folder / name).unlink()
    assert load_e2e("", cache_dir=tmp_path / "cache") == wanted


@pytest.mark.parametrize("name", ["trainset.csv", "devset.csv"])  # the first is looked for before TFDS starts
def test_a_download_that_fails(folder, tmp_path, server, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"cannot download E2E .*404.*; give a folder holding trainset\.csv") as caught:
        load_e2e(None, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_tfds_knows_the_builder_as_one_of_its_own():
    from tensorflow_datasets.core.dataset_metadata import valid_tags

    from hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder import URL, Builder

    metadata = Builder.get_metadata()
    assert Builder.name == "e2e_nlg"
    assert set(metadata.tags) <= set(valid_tags())
    assert "novikova2017e2e" in metadata.citation
    assert set(Builder.url_infos) == {URL + name for name in FILES.values()}


@pytest.mark.full
def test_the_real_files(real_data, tmp_path):
    data = load_e2e(real_data / "e2e", cache_dir=tmp_path / "cache")
    assert {split: len(records) for split, records in data.items()} == {
        "train": 42061,
        "validation": 4672,
        "test": 4693,
    }
    grouped = {split: references(records) for split, records in data.items()}
    assert {split: len(group) for split, group in grouped.items()} == {"train": 4862, "validation": 547, "test": 630}
    assert (
        list(grouped["test"])
        == (real_data / "e2e" / "testset.csv").read_text(encoding="utf-8").replace('"', "").splitlines()[1:]
    )
    assert data["train"][0].ref == "The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30."


def test_the_official_checksums_are_those_of_the_real_files(real_data):
    import hashlib

    from hut_jax.data.e2e.e2e_nlg.e2e_nlg_dataset_builder import Builder

    for info in Builder.url_infos.values():
        content = (real_data / "e2e" / info.filename).read_bytes()
        assert (info.size, info.checksum) == (len(content), hashlib.sha256(content).hexdigest())


def test_references_group_in_order():
    records = [Record("b", "1"), Record("a", "2"), Record("b", "3")]
    assert list(references(records).items()) == [("b", ["1", "3"]), ("a", ["2"])]


def test_an_example_is_prompt_end_text_end(tiny_tokenizer):
    eos = tiny_tokenizer.eos_id
    records = [Record("name[Alba]", "Alba is a place."), Record("name[Bo]", "Bo.")]
    encoded = encode_e2e(records, tiny_tokenizer, 100)
    assert encoded.truncated == 0
    for i, (mr, text) in enumerate(records):
        prompt = [*tiny_tokenizer.encode(mr), eos]
        assert encode_prompts([mr], tiny_tokenizer) == [prompt]
        assert encoded.sequences[i].tolist() == [*prompt, *tiny_tokenizer.encode(" " + text), eos]
        assert encoded.sequences.loss_start[i] == len(prompt)
        assert encoded.sequences[i].tolist().count(eos) == 2


def test_long_examples_lose_their_end_and_are_counted(tiny_tokenizer):
    records = [Record("name[Alba]", "Alba is a place to eat."), Record("name[Bo]", "Bo.")]
    whole = encode_e2e(records, tiny_tokenizer, 100).sequences
    limit = len(whole[0]) - 1
    cut = encode_e2e(records, tiny_tokenizer, limit)
    assert cut.truncated == 1
    assert cut.sequences[0].tolist() == whole[0].tolist()[:limit]
    assert cut.sequences[1].tolist() == whole[1].tolist()
    prompt = len(encode_prompts(["name[Alba]"], tiny_tokenizer)[0])
    with pytest.raises(UserError, match=rf"record 1 takes {prompt} tokens; it should be at least {prompt + 1}"):
        encode_e2e(records, tiny_tokenizer, prompt)
    with pytest.raises(UserError, match="no E2E records"):
        encode_e2e([], tiny_tokenizer, 10)
