"""The evaluate command: outputs and scores of the test set in the workdir, not decoded twice for nothing."""

import json

import pytest

from hut_jax import UserError, evaluate
from hut_jax.config import freeze, from_json, set_task, thaw, to_json
from hut_jax.data.e2e.dataset import load_e2e, references
from hut_jax.metrics.e2e import score as e2e
from hut_jax.train import train


@pytest.fixture
def run(small_config, tmp_path, monkeypatch):
    small_config.train.update({"steps": 1, "warmup": 0.0, "learning_rate": 0.1})
    small_config.decode.update({"beams": 3, "max_new_tokens": 6})
    train(freeze(small_config), tmp_path / "run")
    monkeypatch.setattr(e2e.java, "tokenize", without_java)
    return tmp_path / "run"


def without_java(texts):
    raise e2e.java.Unavailable("not in this test")


def test_outputs_scores_and_result(run, small_config, capsys, monkeypatch):
    before = json.loads((run / "result.json").read_text())
    assert evaluate.main([f"--workdir={run}"]) == 0
    assert "BLEU    0." in capsys.readouterr().out
    outputs = (run / "test_outputs.txt").read_text().splitlines()
    texts = references(load_e2e(small_config.data.dir, cache_dir=small_config.data.cache)["test"])
    assert len(outputs) == len(texts)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["scores"] == e2e.evaluate(outputs, list(texts.values())).scores()
    assert evaluation["decode"]["beams"] == 3
    assert json.loads((run / "result.json").read_text()) == before | {"test": evaluation}

    # The same again decodes nothing; another option does, and so does --again.
    decoded = []
    load = evaluate.load_run
    monkeypatch.setattr(evaluate, "load_run", lambda *args, **kwargs: decoded.append(1) or load(*args, **kwargs))
    evaluate.main([f"--workdir={run}"])
    assert "decoded before" in capsys.readouterr().out
    assert decoded == []
    evaluate.main([f"--workdir={run}", "--config.decode.length_penalty=0.8"])
    assert decoded == [1]
    assert json.loads((run / "result.json").read_text())["test"]["decode"]["length_penalty"] == 0.8
    evaluate.main([f"--workdir={run}", "--config.decode.length_penalty=0.8", "--again"])
    assert decoded == [1, 1]


def test_outputs_of_another_decoding_are_not_taken_for_its_own(run, capsys):
    evaluate.main([f"--workdir={run}"])
    written = (run / "test_outputs.txt").read_text()
    (run / "test_outputs.txt").write_text(written.replace("e", "a"))  # as if a kill had come between two files
    evaluate.main([f"--workdir={run}"])
    assert "decoded before" not in capsys.readouterr().out
    assert (run / "test_outputs.txt").read_text() == written


def test_scores_that_could_not_be_had_are_made_up_for_without_decoding(run, capsys, monkeypatch):
    evaluate.main([f"--workdir={run}"])
    monkeypatch.setattr(evaluate, "load_run", None)
    monkeypatch.setattr(e2e.java, "tokenize", lambda texts: list(texts))
    monkeypatch.setattr(e2e.java, "is_there", lambda: True)
    monkeypatch.setattr(e2e, "meteor", e2e.rouge_l)
    evaluate.main([f"--workdir={run}"])
    assert "decoded before" in capsys.readouterr().out
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["reasons"] == {}
    assert evaluation["scores"]["METEOR"] == evaluation["scores"]["ROUGE_L"]
    assert json.loads((run / "result.json").read_text())["test"] == evaluation


def test_a_damaged_result_is_told_before_anything_is_decoded(run, monkeypatch):
    monkeypatch.setattr(evaluate, "load_run", None)
    (run / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result.json is not JSON: .*training command writes it anew"):
        evaluate.main([f"--workdir={run}"])


def test_an_evaluation_that_fails_leaves_nothing(run, monkeypatch):
    def fail(*args, **kwargs):
        raise UserError("the base has other weights")

    monkeypatch.setattr(evaluate, "load_run", fail)
    with pytest.raises(UserError, match="other weights"):
        evaluate.main([f"--workdir={run}"])
    assert not (run / "evaluation.json").exists()
    assert not (run / "test_outputs.txt").exists()


def test_only_e2e_has_a_test_set_to_generate_texts_for(run):
    config = thaw(from_json((run / "config.json").read_text()))
    set_task(config, "lm")
    (run / "config.json").write_text(to_json(freeze(config)))
    with pytest.raises(
        UserError, match=r"of the task 'lm', which has no test set to generate texts for; those that do: 'e2e'"
    ):
        evaluate.main([f"--workdir={run}"])
    assert not (run / "evaluation.json").exists()


def test_a_run_without_an_adapter_is_refused(run):
    for file in (run / "adapter").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"no adapter in"):
        evaluate.main([f"--workdir={run}"])
