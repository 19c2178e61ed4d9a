"""The merge command: a checkpoint with no trace of the adapter that computes what the adapter did."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, load_adapter, load_pretrained, merge
from hut_jax.config import freeze, set_transform
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.train import train
from hut_jax.transforms import TRANSFORMS

QUICK = ("hut",)  # a run of each takes its while to compile


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in TRANSFORMS]
)
def test_the_merged_checkpoint_computes_what_the_adapter_does(name, small_config, tmp_path, capsys):
    """The whole life of an adapter of every kind: configured by name, trained, saved, merged, loaded."""
    set_transform(small_config, name)
    small_config.train.update({"steps": 3, "warmup": 0.0, "decay": "constant", "learning_rate": 0.05, "dropout": False})
    train(freeze(small_config), tmp_path / "run")
    assert merge.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"]) == 0
    assert f"the model is in {tmp_path / 'merged'}" in capsys.readouterr().out

    tokens = np.arange(20).reshape(2, 10)
    model, params = load_pretrained(small_config.model)
    adapter, factors = load_adapter(tmp_path / "run/adapter", params)
    assert type(adapter.transform) is TRANSFORMS[name]
    merged_model, merged = load_pretrained(tmp_path / "merged")
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    expected = adapter.apply(model, params, factors, tokens)
    got = merged_model.apply({"params": merged}, tokens)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(got - model.apply({"params": params}, tokens)).max() > 1e-3
    assert load_tokenizer(tmp_path / "merged").encode("a diner") == load_tokenizer(small_config.model).encode("a diner")


@pytest.fixture
def run(small_config, tmp_path):
    small_config.train.update({"steps": 1, "warmup": 0.0, "learning_rate": 0.1})
    train(freeze(small_config), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.full
def test_a_scanned_run_merges_as_any_other(small_config, tmp_path):
    small_config.train.update({"steps": 1, "warmup": 0.0, "learning_rate": 0.1, "scan_layers": True})
    train(freeze(small_config), tmp_path / "run")
    merge.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"])
    model, params = load_pretrained(small_config.model)
    adapter, factors = load_adapter(tmp_path / "run/adapter", params)
    tokens = np.arange(20).reshape(2, 10)
    got = model.apply({"params": load_pretrained(tmp_path / "merged")[1]}, tokens)
    np.testing.assert_allclose(got, adapter.apply(model, params, factors, tokens), rtol=1e-5, atol=1e-5)


def test_it_can_be_written_in_bf16(run, tmp_path):
    merge.main([f"--workdir={run}", f"--output={tmp_path / 'merged'}", "--dtype=bfloat16"])
    tensors = load_file(tmp_path / "merged/model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"bfloat16"}


def test_a_run_with_a_gpus_attention_is_read_without_one(run, tmp_path):
    config = (run / "config.json").read_text()
    assert '"attention": "xla"' in config
    (run / "config.json").write_text(config.replace('"attention": "xla"', '"attention": "cudnn"'))
    assert merge.main([f"--workdir={run}", f"--output={tmp_path / 'merged'}"]) == 0


def test_factors_that_are_not_finite_are_refused_and_nothing_is_written(run, tmp_path):
    path = run / "adapter/adapter_model.safetensors"
    tensors = dict(load_file(path))
    tensors["layer_1/attention/value/g"] = np.full_like(tensors["layer_1/attention/value/g"], np.inf)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"the merged layer_1/attention/value/kernel has values that are not finite"):
        merge.main([f"--workdir={run}", f"--output={tmp_path / 'merged'}"])
    assert not (tmp_path / "merged").exists()


def test_numbers_too_large_for_the_dtype_are_refused(run, tmp_path):
    """The largest float32 rounds to an infinity in bfloat16."""
    path = run / "adapter/adapter_model.safetensors"
    tensors = dict(load_file(path))
    tensors["layer_1/attention/value/s"] = np.full_like(tensors["layer_1/attention/value/s"], np.finfo(np.float32).max)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"the merged layer_1/attention/value/bias has values that are not finite"):
        merge.main([f"--workdir={run}", f"--output={tmp_path / 'merged'}", "--dtype=bfloat16"])
    assert not (tmp_path / "merged").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no run in .*nowhere: it has no config.json"):
        merge.main([f"--workdir={tmp_path / 'nowhere'}", f"--output={tmp_path / 'merged'}"])
    assert not (tmp_path / "merged").exists()
