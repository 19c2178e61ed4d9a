"""The command that writes predictions for GLUE's test server."""

import shutil

import jax
import numpy as np
import pytest

from hut_jax import UserError, load_adapter, load_pretrained, predict, save_adapter
from hut_jax.config import freeze, from_json, set_task, thaw, to_json
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.runs.run import make_run
from hut_jax.train import train


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


def untrained(config, workdir):
    """A run's folder with zero factors, as far as `predict` reads it."""
    run = make_run(config)
    shapes = jax.eval_shape(run.adapter.init, jax.random.key(0), run.shapes)
    params, factors = (jax.tree.map(lambda leaf: np.zeros(leaf.shape), tree) for tree in (run.shapes, shapes))
    save_adapter(workdir / "adapter", run.adapter, factors, params)
    (workdir / "config.json").write_text(to_json(config))


def test_data_without_a_test_file_and_runs_of_other_tasks_are_refused(glue_config, tmp_path):
    untrained(freeze(glue_config), tmp_path / "run")
    with pytest.raises(UserError, match=r"has no test file of cola: CoLA/test.tsv"):
        predict.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"])
    config = thaw(from_json((tmp_path / "run/config.json").read_text()))
    set_task(config, "mlm")
    (tmp_path / "run/config.json").write_text(to_json(freeze(config)))
    with pytest.raises(UserError, match=r"of the task 'mlm', which has no labels to predict .*; those that do: 'cola'"):
        predict.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="no run in"):
        predict.main([f"--workdir={tmp_path / 'none'}", f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
