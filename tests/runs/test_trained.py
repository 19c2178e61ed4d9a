"""A trained run, loaded from its workdir."""

import json
import shutil

import pytest

from hut_jax import UserError
from hut_jax.config import freeze
from hut_jax.runs.run import make_run
from hut_jax.runs.trained import load_run, read_trained_config


def test_a_trained_run_is_checked_before_its_weights_are_read(finished, small_model, tmp_path):
    run = load_run(finished)
    assert (run.task.name, run.config.model) == ("e2e", str(small_model))
    run.adapter.check(run.params, run.factors)

    small = tmp_path / "small"
    shutil.copytree(small_model, small)
    description = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(description | {"vocab_size": 100}))
    (small / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"2,048 tokens, .* has a vocabulary of 100; set config.tokenizer to one"):
        load_run(finished, read_trained_config(finished, [f"--config.model={small}"]))


def test_what_the_checkpoint_lacks_is_read_once(small_config, monkeypatch):
    run = make_run(freeze(small_config))
    calls = []
    monkeypatch.setattr("hut_jax.runs.run.missing_params", lambda *args, **kwargs: calls.append(1) or [])
    assert run.new_parameters == run.new_parameters == []
    assert len(calls) == 1
