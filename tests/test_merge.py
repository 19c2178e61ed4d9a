"""The merge command: a checkpoint with no trace of the adapter that computes what the adapter did."""

import jax
import numpy as np
import pytest

from hut_jax import UserError, load_adapter, load_pretrained, merge
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.train import train


def test_the_merged_checkpoint_computes_what_the_adapter_does(small_config, tmp_path, capsys):
    small_config.train.learning_rate = 0.3
    train(small_config, tmp_path / "run")
    assert merge.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"]) == 0
    assert f"the model is in {tmp_path / 'merged'}" in capsys.readouterr().out

    tokens = np.arange(20).reshape(2, 10)
    model, params = load_pretrained(small_config.model)
    adapter, factors = load_adapter(tmp_path / "run/adapter")
    merged_model, merged = load_pretrained(tmp_path / "merged")
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    expected = adapter.apply(model, params, factors, tokens)
    got = merged_model.apply({"params": merged}, tokens)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(got - model.apply({"params": params}, tokens)).max() > 1e-3
    assert load_tokenizer(tmp_path / "merged").encode("a diner") == load_tokenizer(small_config.model).encode("a diner")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*nowhere: it has no config.json"):
        merge.main([f"--workdir={tmp_path / 'nowhere'}", f"--output={tmp_path / 'merged'}"])
    assert not (tmp_path / "merged").exists()
