"""The command that predicts labels: for GLUE's test server, for the validation splits, and for a file of one's own."""

import shutil
import zipfile
from contextlib import chdir
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, load_adapter, load_pretrained, predict, save_adapter
from hut_jax.config import freeze, from_json, set_task, thaw, to_json
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.runs.result import read_result
from hut_jax.runs.run import make_run
from hut_jax.train import train
from hut_jax.training.log import show

RUNS = Path(__file__).parent / "goldens/version_0_1/runs.zip"
"""A run of CoLA by version 0.1, its data, and what version 0.1 predicted for the test split."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with zipfile.ZipFile(RUNS) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def cola(runs, monkeypatch):
    """The arguments for the run. Its paths are relative."""
    monkeypatch.chdir(runs)
    return ["--workdir=ended/glue"]


@pytest.mark.full
def test_each_test_example_gets_the_class_that_the_adapted_model_gives_it_alone(glue_config, small_glue, tmp_path):
    data = shutil.copytree(small_glue, tmp_path / "glue")
    texts = ["the cat sat", "rain fell all day and nobody came on a mat", "a", "nobody sat on the day", "all day"]
    rows = [f"{i}\t{text}\t{text} while rain fell" for i, text in enumerate(texts)]
    (data / "RTE" / "test.tsv").write_text("\n".join(["index\tsentence1\tsentence2", *rows]) + "\n")
    glue_config.task = "rte"
    glue_config.data.dir = str(data)
    glue_config.eval.batch_size = 4
    train(freeze(glue_config), tmp_path / "run")
    assert predict.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]) == 0

    model, params = load_pretrained(glue_config.model, head="classification", draw=False, report=lambda line: None)
    adapter, factors = load_adapter(tmp_path / "run/adapter", params)
    tokenizer = load_tokenizer(glue_config.model)
    lines = (tmp_path / "out/RTE.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    for i, text in enumerate(texts):
        ids = tokenizer.encode_texts([(text, f"{text} while rain fell")], 64).ids
        logits = adapter.apply(model, params, factors, np.array(ids))
        assert lines[1 + i] == f"{i}\t{('entailment', 'not_entailment')[int(logits[0].argmax())]}"


def test_a_file_of_texts_gets_what_the_test_split_gets(cola, tmp_path, capsys):
    """The test split's own file has a line that names the columns, and so has the output."""
    wanted = [line.split("\t")[1] for line in Path("made/CoLA.tsv").read_text().splitlines()]
    names = {"prediction": "prediction", "0": "unacceptable", "1": "acceptable"}
    assert {"0", "1"} < set(wanted)
    output = tmp_path / "labels.txt"
    assert predict.main([*cola, "--input=glue/CoLA/test.tsv", f"--output={output}"]) == 0
    assert output.read_text().splitlines() == [names[label] for label in wanted]
    assert f"{len(wanted) - 1} predictions are in {output}" in capsys.readouterr().out


def test_a_validation_split_gets_the_score_that_training_gave_it(cola, tmp_path, capsys):
    best = read_result(Path("ended/glue"))["best"]
    assert predict.main([*cola, "--split=validation", f"--output={tmp_path}"]) == 0
    assert show({name: best[name] for name in ("matthews", "score")}) in capsys.readouterr().out
    rows = (tmp_path / "CoLA-validation.tsv").read_text().splitlines()
    count = len(Path("glue/CoLA/dev.tsv").read_text().splitlines())
    assert [row.split("\t")[0] for row in rows] == ["index", *map(str, range(count))]


def test_texts_longer_than_the_model_takes_are_cut_with_a_note(cola, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("the cat sat\n" + "the cat sat on a mat " * 100 + "\n")
    output = tmp_path / "labels.jsonl"
    assert predict.main([*cola, f"--input={tmp_path / 'texts.txt'}", f"--output={output}"]) == 0
    assert "note: 1 of 2 examples were cut to 64 tokens" in capsys.readouterr().out
    assert [line[:16] for line in output.read_text().splitlines()] == ['{"prediction": "'] * 2


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("a\n\n", ["--input={}"], r"texts.txt, line 2 is empty"),
        ("a\tb\n", ["--input={}"], r"texts.txt, line 1: 2 fields between tabs where there should be 1: 'sentence'"),
        ("a\n", ["--input={}", "--split=test"], "give either --input or --split"),
        ("a\n", ["--input={}", "--config.data.max_length=4"], "config.data.max_length cannot be changed after"),
        ("a\n", ["--split=dev"], "invalid choice: 'dev'"),
    ],
)
def test_what_is_wrong_is_told_before_the_run_is_loaded(text, arguments, message, cola, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_run", None)
    (tmp_path / "texts.txt").write_text(text)
    given = [argument.format(tmp_path / "texts.txt") for argument in arguments]
    with pytest.raises(UserError, match=message):
        predict.main([*cola, *given, f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def untrained(config, workdir):
    """A run's folder with zero factors, as far as `predict` reads it."""
    run = make_run(config)
    shapes = jax.eval_shape(run.adapter.init, jax.random.key(0), run.shapes)
    params, factors = (jax.tree.map(lambda leaf: np.zeros(leaf.shape), tree) for tree in (run.shapes, shapes))
    save_adapter(workdir / "adapter", run.adapter, factors, params)
    (workdir / "config.json").write_text(to_json(config))


def test_logits_that_are_no_numbers_are_no_predictions(runs, tmp_path):
    run = shutil.copytree(runs / "ended", tmp_path / "ended") / "glue"
    file = run / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    for name in ("dense/bias", "out/kernel"):  # each is finite, and so is what is merged
        tensors[f"classifier/{name}/d"][:] = 3e38
    save_file(tensors, file, {"format": "np"})
    (tmp_path / "texts.tsv").write_text("the cat sat\n")
    with chdir(runs), pytest.raises(UserError, match="the model's logits are not finite: its factors are too large"):
        predict.main([f"--workdir={run}", f"--input={tmp_path / 'texts.tsv'}", f"--output={tmp_path / 'labels'}"])
    assert not (tmp_path / "labels").exists()


def test_data_without_a_test_file_and_runs_of_other_tasks_are_refused(glue_config, tmp_path):
    untrained(freeze(glue_config), tmp_path / "run")
    with pytest.raises(UserError, match=r"has no test file of cola: CoLA/test.tsv"):
        predict.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"])
    config = thaw(from_json((tmp_path / "run/config.json").read_text()))
    set_task(config, "mlm")
    (tmp_path / "run/config.json").write_text(to_json(freeze(config)))
    with pytest.raises(UserError, match=r"of the task 'mlm', which has no labels to predict; those that do: 'cola'"):
        predict.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="no run in"):
        predict.main([f"--workdir={tmp_path / 'none'}", f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
