"""GLUE from files to a score."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import UserError, load_adapter, load_pretrained, merge, save_adapter
from hut_jax.config import freeze, set_task
from hut_jax.data.batching import Batching, batch_dataset
from hut_jax.data.glue.dataset import load_glue
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.data.glue.tsv import GlueExample
from hut_jax.data.loss import Evaluated
from hut_jax.runs import config_files
from hut_jax.runs.factors import init_factors
from hut_jax.runs.placement import mesh_for, place
from hut_jax.runs.run import make_run, prepare
from hut_jax.tasks import TASKS
from hut_jax.tasks.glue import classification_loss, regression_loss
from hut_jax.train import make_plan, print_description, train
from hut_jax.training.evaluation import Evaluation
from hut_jax.training.log import read_metrics


def batch(labels, weights):
    size = len(labels)
    return {
        "input_ids": np.ones((size, 2), np.int32),
        "attention_mask": np.ones((size, 2), bool),
        "token_type_ids": np.tile(np.array([0, 1]), (size, 1)),
        "labels": np.array(labels),
        "weights": np.array(weights, np.float32),
    }


def test_the_losses_are_cross_entropy_and_squared_error_of_the_real_rows():
    logits = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])

    def apply(ids, mask, *, token_type_ids):
        return logits + jnp.where(token_type_ids == jnp.array([0, 1]), 0.0, jnp.nan)

    @partial(jax.jit, static_argnums=0)
    def run(loss, batch):
        return loss(apply, batch)

    total, weight, outputs = run(classification_loss, batch([0, 0, 1], [1, 1, 0]))
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))
    assert (float(total), float(weight)) == (pytest.approx(expected, rel=1e-6), 2)
    np.testing.assert_array_equal(outputs["predictions"][:2], [0, 1])

    total, weight, outputs = run(regression_loss, batch([1.0, 3.0, 9.0], [1, 1, 0]))
    assert (float(total), float(weight)) == (1 + 9, 2)
    np.testing.assert_array_equal(outputs["predictions"], [2, 0, 5])


def evaluated(predictions, labels, loss=0.5):
    """With a row that only fills the batch up, whose prediction is wrong."""
    outputs = {
        "predictions": np.array([*predictions, 1]),
        "labels": np.array([*labels, 0]),
        "weights": np.array([1.0] * len(labels) + [0.0]),
    }
    return Evaluated(loss, [outputs])


def test_metrics_are_of_the_real_rows():
    scores = TASKS["mrpc"].metrics({"validation": evaluated([1, 1, 0, 0], [1, 0, 0, 0])})
    assert scores["accuracy"] == 0.75
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["score"] == pytest.approx((0.75 + 2 / 3) / 2)
    assert scores["loss"] == 0.5


def test_mnli_is_judged_by_both_its_splits_together():
    both = {
        "validation_matched": evaluated([0, 1, 2, 0], [0, 1, 2, 0], loss=0.1),
        "validation_mismatched": evaluated([0, 0], [1, 2], loss=0.9),
    }
    scores = TASKS["mnli"].metrics(both)
    assert scores == {
        "loss": 0.1, "matched_accuracy": 1, "mismatched_accuracy": 0, "score": pytest.approx(4 / 6)
    }  # fmt: skip


def test_predictions_are_scored_named_and_written_as_evaluations_and_submissions_are(tmp_path):
    records = {
        "validation_matched": [GlueExample(("a", "b"), label, row) for row, label in enumerate([0, 1, 2, 0])],
        "validation_mismatched": [GlueExample(("a", "b"), label, row) for row, label in enumerate([1, 2])],
    }
    predictions = {"validation_matched": [0, 1, 2, 0], "validation_mismatched": [0, 0]}
    mnli = TASKS["mnli"]
    scores = mnli.score_predictions(records, predictions)
    labels = {split: [record.label for record in rows] for split, rows in records.items()}
    evaluations = {split: evaluated(predictions[split], labels[split]) for split in records}
    assert scores == {name: value for name, value in mnli.metrics(evaluations).items() if name != "loss"}
    assert (scores["matched_accuracy"], scores["mismatched_accuracy"], scores["score"]) == (1, 0, pytest.approx(4 / 6))
    assert mnli.label(2) == "contradiction"
    assert TASKS["stsb"].label(np.float32(5.3)) == 5.3

    split = "validation_mismatched"
    path = mnli.write_predictions(tmp_path, split, records[split], predictions[split])
    assert path == tmp_path / "MNLI-validation_mismatched.tsv"
    assert path.read_text() == "index\tprediction\n0\tentailment\n1\tentailment\n"
    path = mnli.write_predictions(tmp_path, "test_matched", records[split], predictions[split])
    assert path == tmp_path / "MNLI-m.tsv"


@pytest.mark.full
def test_a_run_keeps_its_best_factors_and_its_new_head_and_another_task_may_start_from_them(glue_config, tmp_path):
    """The head's base has zeros, so that the base's fingerprint is that of the checkpoint alone."""
    result = train(freeze(glue_config), tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run") if line["split"] == "validation"]
    assert set(result["metrics"]) == {"loss", "matthews", "score"}
    best = max(lines, key=lambda line: (line["score"], -line["step"]))
    assert (result["best"]["step"], result["best"]["score"]) == (best["step"], best["score"])
    description = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert description["also_train"] == ["^classifier"]

    run = make_run(freeze(glue_config))
    params = run.load_base()
    adapter, factors = load_adapter(tmp_path / "run/adapter", params)
    dev = batch_dataset(run.load_data().validation["validation"], Batching(4, shuffle=False, epochs=1))
    evaluated = Evaluation(partial(adapter.apply, run.model), run.task.loss(run.tokenizer))(params, factors, dev)
    scores = run.task.metrics({"validation": evaluated})
    assert scores == pytest.approx({name: best[name] for name in scores}, rel=1e-4)

    model, params = load_pretrained(glue_config.model, head="classification", draw=False, report=lambda line: None)
    glue_config.seed = 1
    other = init_factors(make_run(freeze(glue_config)), params)
    heads = [np.asarray(tree["classifier"]["dense"]["kernel"]["d"]) for tree in (factors, other)]
    assert np.abs(heads[0]).max() > 0.01
    assert np.abs(heads[0] - heads[1]).max() > 0.01
    ids = np.arange(10, 22).reshape(2, 6)
    merge.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"])
    whole, merged = load_pretrained(tmp_path / "merged")
    assert whole.config.labels == ("unacceptable", "acceptable")
    logits = jax.jit(whole.apply)({"params": merged}, ids)
    adapted = jax.jit(partial(adapter.apply, model))(params, factors, ids)
    np.testing.assert_allclose(logits, adapted, rtol=1e-5, atol=1e-6)

    factors = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + 0.1), factors)
    save_adapter(tmp_path / "run/adapter", adapter, factors, base_fingerprint=description["base"]["fingerprint"])
    glue_config.task = "stsb"
    glue_config.adapter.start = str(tmp_path / "run/adapter")
    glue_config.train.update({"steps": 1, "learning_rate": 1e-9, "also_train_learning_rate": 1e-9})
    result = train(freeze(glue_config), tmp_path / "stsb")
    assert set(result["metrics"]) == {"loss", "pearson", "spearman", "score"}
    _, second = load_adapter(tmp_path / "stsb/adapter")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), factors["layer_0"], second["layer_0"])
    assert second["classifier"]["out"]["kernel"]["d"].shape == (16, 1)
    assert second["classifier"]["out"]["bias"]["d"].shape == (1,)
    glue_config.adapter.rank = 4
    with pytest.raises(UserError, match=r"config.adapter.start: .* has HUT\(rank=2.*and this run has HUT\(rank=4"):
        train(freeze(glue_config), tmp_path / "other")


def test_a_new_head_is_named_once_as_it_is_normal(glue_config, capsys):
    config = freeze(glue_config)
    run, data = prepare(config)
    print_description(run, data, make_plan(config, len(data.train)), place(run, mesh_for(config)))
    said = f"a new head trains too, since {config.model} has none that fits: 'classifier/dense/kernel', "
    assert said in capsys.readouterr().out
    run.load_base()  # as every command does
    assert "classifier" not in capsys.readouterr().out


def test_labels_of_a_regression_are_not_smoothed(glue_config, tmp_path):
    glue_config.task = "stsb"
    glue_config.train.label_smoothing = 0.1
    with pytest.raises(UserError, match=r"label_smoothing is for classes, and stsb is a regression"):
        train(freeze(glue_config), tmp_path / "smoothed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter.also_train": ()}, r"has no classifier/dense/kernel, and it does not train; .*'\^classifier'"),
        ({"task": "mrpc"}, r"has no folder MRPC for the task mrpc; it holds cola, stsb, rte"),
        ({"task": "colla"}, r"config.task is 'colla'; did you mean 'cola'"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work_starts(change, message, glue_config, tmp_path):
    glue_config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        train(freeze(glue_config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_has_not_the_tasks_head_is_refused(glue_config, tmp_path):
    set_task(glue_config, "e2e")
    with pytest.raises(UserError, match=r"roberta has no head 'causal'"):
        train(freeze(glue_config), tmp_path / "run")


def test_the_config_takes_a_task_and_a_size():
    mrpc = config_files.load_config_file("configs/glue.py:mrpc")
    assert (mrpc.task, mrpc.model, mrpc.train.batch_size, mrpc.train.epochs) == ("mrpc", "roberta-base", 16, 30)
    large = config_files.load_config_file("configs/glue.py:stsb,large")
    assert (large.model, large.train.batch_size, large.train.epochs) == ("roberta-large", 8, 30)
    with pytest.raises(UserError, match=r"name the task behind the config: glue:mrpc, or one of cola, sst2"):
        config_files.load_config_file("configs/glue.py")
    with pytest.raises(UserError, match="no task 'mrcp' in GLUE; did you mean 'mrpc'"):
        config_files.load_config_file("configs/glue.py:mrcp")
    with pytest.raises(UserError, match="no recipe for the size 'huge'; valid: 'base', 'large', 'smollm2'"):
        config_files.load_config_file("configs/glue.py:mrpc,huge")


def test_training_reads_no_test_file(glue_config, small_glue, tmp_path):
    shutil.copytree(small_glue, tmp_path / "glue")
    (tmp_path / "glue/CoLA/test.tsv").write_text("no header\n")
    glue_config.data.dir = str(tmp_path / "glue")
    make_run(freeze(glue_config)).load_data()
    with pytest.raises(UserError, match=r"test.tsv, line 1: no column"):
        load_glue(GLUE_TASKS["cola"], tmp_path / "glue")
