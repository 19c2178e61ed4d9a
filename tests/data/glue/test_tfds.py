import shutil
import sys
from pathlib import Path

import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.data.glue.tfds import read_tfds
from hut_jax.data.glue.tsv import read_split

COLA = GLUE_TASKS["cola"]
LABELLED = 'a\t1\t\tHe goes.\nb\t0\t*\tGo he.\nc\t1\t\tÄ "she".\n'
FILES = {"train.tsv": LABELLED, "dev.tsv": LABELLED[:12] + "\n", "test.tsv": "index\tsentence\n0\tOne.\n1\tTwo.\n"}


@pytest.fixture
def download(tmp_path, monkeypatch):
    """TFDS' own builder of CoLA on files that are here already: the folder they are in, as the zip unpacks."""
    import tensorflow_datasets as tfds

    folder = tmp_path / "unpacked"
    (folder / "CoLA").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / "CoLA" / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: str(folder))
    monkeypatch.setattr("hut_jax.data.glue.tfds.check_reachable", lambda url: None)
    return folder


def test_tfds_gives_what_the_files_hold_and_keeps_it(download, tmp_path, capfd):
    first = read_tfds(COLA, cache_dir=tmp_path / "cache")
    assert first == {
        split: read_split(COLA, split, download / "CoLA" / name).examples for split, name in COLA.files.items()
    }
    shutil.rmtree(download)
    assert read_tfds(COLA, cache_dir=tmp_path / "cache") == first
    assert capfd.readouterr() == ("", "")


def test_it_needs_no_tensorflow(download, tmp_path):
    read_tfds(COLA, cache_dir=tmp_path / "cache")
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_tfds_has_the_same_features_and_label_names(name, tmp_path):
    from tensorflow_datasets.text.glue import Glue

    task = GLUE_TASKS[name]
    config = Glue.builder_configs[name]
    assert set(config.text_features) == set(task.texts.values())
    assert tuple(config.label_classes or ()) == task.labels
    if name != "mrpc":  # which it makes from the original files
        assert {feature: column for column, feature in task.texts.items()} == config.text_features
        assert Path(config.data_dir).name == task.folder


def unreachable(url):
    raise OSError("no route\nthere")


def test_what_tfds_cannot_give_is_told_in_one_line(download, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    read_tfds(COLA, cache_dir=cache)
    (damaged,) = cache.rglob("*test.array_record*")
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(
        UserError, match=r"the prepared test split in .* cannot be read .*; delete that folder"
    ) as caught:
        read_tfds(COLA, cache_dir=cache)
    assert "\n" not in str(caught.value)

    import tensorflow_datasets.text.glue as builders

    with monkeypatch.context() as patch:
        patch.setattr("hut_jax.data.glue.tfds.check_reachable", unreachable)
        with pytest.raises(
            UserError, match=r"glue/rte \(no route there\); give a folder that holds RTE/ with its TSV f"
        ):
            read_tfds(GLUE_TASKS["rte"], cache_dir=cache)
    monkeypatch.setattr(builders.Glue.builder_configs["cola"], "label_classes", ["acceptable", "unacceptable"])
    with pytest.raises(UserError, match=r"glue/cola has the labels \('acceptable', 'unacceptable'\), and \('unaccepta"):
        read_tfds(COLA, cache_dir=tmp_path / "other")
    monkeypatch.delattr(builders, "Glue")
    with pytest.raises(UserError, match=r"this TFDS has no builder of GLUE .*; give a folder that holds CoLA/"):
        read_tfds(COLA, cache_dir=cache)
