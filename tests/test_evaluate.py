"""The evaluate command: outputs and scores of the test set in the workdir, not decoded twice for nothing."""

import json
import shutil

import pytest

from hut_jax import UserError, evaluate
from hut_jax.config import freeze, from_json, set_task, thaw, to_json
from hut_jax.data.e2e.dataset import load_e2e, references
from hut_jax.metrics.e2e import score as e2e


def without_java(texts):
    raise e2e.java.Unavailable("not in this test")


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(e2e.java, "tokenize", without_java)


OPTION = "--config.decode.length_penalty=0.8"


@pytest.fixture(scope="module")
def decoded(finished, tmp_path_factory):
    """A run whose test set was decoded, with an option of its own. To be read only: `evaluated` is a copy."""
    run = tmp_path_factory.mktemp("decoded") / "run"
    shutil.copytree(finished, run)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(e2e.java, "tokenize", without_java)
        assert evaluate.main([f"--workdir={run}", OPTION]) == 0
    return run


@pytest.fixture
def evaluated(decoded, tmp_path):
    return shutil.copytree(decoded, tmp_path / "evaluated")


def decodes(*arguments):
    """Whether the command with these arguments decodes the test set. It is stopped before it does."""

    class Decodes(Exception):
        pass

    def stop(*args, **kwargs):
        raise Decodes

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluate, "load_run", stop)
        try:
            evaluate.main(arguments)
        except Decodes:
            return True
    return False


def test_outputs_scores_and_result(finished, evaluated, small_config, capsys):
    outputs = (evaluated / "test_outputs.txt").read_text().splitlines()
    texts = references(load_e2e(small_config.data.dir, cache_dir=small_config.data.cache)["test"])
    assert len(outputs) == len(texts)
    evaluation = json.loads((evaluated / "evaluation.json").read_text())
    assert evaluation["scores"] == e2e.evaluate(outputs, list(texts.values())).scores()
    assert (evaluation["decode"]["beams"], evaluation["decode"]["length_penalty"]) == (3, 0.8)
    before = json.loads((finished / "result.json").read_text())
    assert json.loads((evaluated / "result.json").read_text()) == before | {"test": evaluation}

    # The same again decodes nothing; another option does, and so does --again.
    capsys.readouterr()
    assert not decodes(f"--workdir={evaluated}", OPTION)
    out = capsys.readouterr().out
    assert "decoded before" in out
    assert "BLEU    0." in out
    assert decodes(f"--workdir={evaluated}")
    assert decodes(f"--workdir={evaluated}", OPTION, "--again")
    assert decodes(f"--workdir={evaluated}", OPTION, "--force")  # another base may be refused without it
    assert "decoded before" not in capsys.readouterr().out


def test_outputs_of_another_decoding_are_not_taken_for_its_own(evaluated):
    written = (evaluated / "test_outputs.txt").read_text()
    (evaluated / "test_outputs.txt").write_text(written + "a")  # as if a kill had come between two files
    assert decodes(f"--workdir={evaluated}", OPTION)
    (evaluated / "test_outputs.txt").write_text(written)
    assert not decodes(f"--workdir={evaluated}", OPTION)


def test_scores_that_could_not_be_had_are_made_up_for_without_decoding(evaluated, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "load_run", None)
    monkeypatch.setattr(e2e.java, "tokenize", lambda texts: list(texts))
    monkeypatch.setattr(e2e.java, "is_there", lambda: True)
    monkeypatch.setattr(e2e, "meteor", e2e.rouge_l)
    evaluate.main([f"--workdir={evaluated}", OPTION])
    assert "decoded before" in capsys.readouterr().out
    evaluation = json.loads((evaluated / "evaluation.json").read_text())
    assert evaluation["reasons"] == {}
    assert evaluation["scores"]["METEOR"] == evaluation["scores"]["ROUGE_L"]
    assert json.loads((evaluated / "result.json").read_text())["test"] == evaluation


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
