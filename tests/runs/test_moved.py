"""A workdir, its base and its data that were moved: every command is told where they are, and knows the base again."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, evaluate, generate, merge, predict
from hut_jax.data.e2e.dataset import load_e2e, references
from hut_jax.metrics.e2e import score as e2e

GOLDEN = Path(__file__).parents[1] / "goldens/version_0_1/runs.zip"
"""Runs of version 0.1 with their data, their bases, and what version 0.1 predicted."""


@pytest.fixture
def moved(finished, small_model, small_data, tmp_path, monkeypatch):
    """The arguments for a run that was moved with its base, tokenizer and data. Nothing is left where they were."""
    for name, folder in (("run", finished), ("base", small_model), ("data", small_data)):
        shutil.copytree(folder, tmp_path / "new" / name)
    monkeypatch.chdir(tmp_path / "new")
    config = json.loads(Path("run/config.json").read_text())
    config |= {"model": str(tmp_path / "old/base"), "tokenizer": str(tmp_path / "old/tokenizer")}
    config["data"] |= {"dir": str(tmp_path / "old/data"), "cache": str(tmp_path / "old/data/cache")}
    Path("run/config.json").write_text(json.dumps(config))
    now = {"model": "base", "tokenizer": "base", "data.dir": "data", "data.cache": "data/cache"}
    return ["--workdir=run", *(f"--config.{field}={place}" for field, place in now.items())]


@pytest.fixture
def moved_glue(tmp_path, monkeypatch):
    """The arguments for version 0.1's run of CoLA, moved like the other."""
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path / "old")
    for old, new in (("ended/glue", "run"), ("roberta", "base"), ("glue", "data"), ("made", "made")):
        shutil.copytree(tmp_path / "old" / old, tmp_path / "new" / new)
    monkeypatch.chdir(tmp_path / "new")
    return ["--workdir=run", "--config.model=base", "--config.data.dir=data"]


def other_weights(base):
    """A folder with another base of the same shapes."""
    shutil.copytree(base, "other")
    tensors = dict(load_file("other/model.safetensors"))
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] + 1}, "other/model.safetensors", {"format": "pt"})
    return "--config.model=other"


@pytest.mark.full
def test_a_run_that_was_moved_does_what_it_did(moved, finished, small_config, monkeypatch):
    def without_java(texts):
        raise e2e.java.Unavailable("the texts matter here")

    monkeypatch.setattr(e2e.java, "tokenize", without_java)
    mrs = list(references(load_e2e(small_config.data.dir, cache_dir=small_config.data.cache)["test"]))
    Path("mrs.txt").write_text("".join(f"{mr}\n" for mr in mrs))
    for name, arguments in (("before", [f"--workdir={finished}"]), ("after", moved)):
        assert generate.main([*arguments, "--input=mrs.txt", f"--output={name}.txt"]) == 0
        assert merge.main([*arguments, f"--output={name}"]) == 0
    assert evaluate.main(moved) == 0
    texts = Path("before.txt").read_text()
    assert Path("after.txt").read_text() == Path("run/test_outputs.txt").read_text() == texts
    for file in Path("before").iterdir():
        assert (Path("after") / file.name).read_bytes() == file.read_bytes()


def test_predictions_of_a_run_that_was_moved_are_those_of_version_0_1(moved_glue):
    assert predict.main([*moved_glue, "--output=."]) == 0
    assert Path("CoLA.tsv").read_text() == Path("made/CoLA.tsv").read_text()


@pytest.mark.full
def test_another_base_is_refused_with_both_names(moved):
    other = other_weights("base")
    Path("mrs.txt").write_text("name[Alba]\n")
    for command, own in (
        (evaluate, []),
        (generate, ["--input=mrs.txt", "--output=out"]),
        (merge, ["--output=out"]),
    ):
        with pytest.raises(UserError, match=r"trained on '.*small' \(\w+\), and 'other' has other weights"):
            command.main([*moved, *own, other])
    assert not Path("out").exists()


def test_predict_refuses_another_base_too(moved_glue):
    with pytest.raises(UserError, match=r"trained on 'roberta' \(\w+\), and 'other' has other weights"):
        predict.main([*moved_glue, "--output=.", other_weights("base")])
    assert not Path("CoLA.tsv").exists()


def test_a_message_says_how_to_name_the_new_places(moved):
    workdir = moved[0]
    with pytest.raises(
        UserError,
        match=r"no such folder: .*old/base; if it has moved, say where it is: --config\.model=FOLDER or "
        r"--config\.tokenizer=FOLDER",
    ):
        merge.main([workdir, "--output=out"])
    with pytest.raises(UserError, match=r"no such folder: .*old/tokenizer; if it has moved"):
        merge.main([workdir, "--output=out", "--config.model=base"])
    with pytest.raises(UserError, match=r"no folder '.*old/data'; give one with .* as config\.data\.dir"):
        evaluate.main([workdir, "--config.model=base", "--config.tokenizer=base"])
    with pytest.raises(UserError, match=r"config\.adapter\.rank cannot be changed after training"):
        merge.main([workdir, "--output=out", "--config.adapter.rank=3"])
