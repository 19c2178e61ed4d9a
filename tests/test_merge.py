"""The merge command: a checkpoint with no trace of the adapter that computes what the adapter did."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, load_adapter, load_pretrained, merge
from hut_jax.config import freeze, set_transform
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.train import train
from hut_jax.transforms import TRANSFORMS

TOKENS = np.arange(20).reshape(2, 10)


@jax.jit
def logits_of(params):
    return two_layers().apply({"params": params}, TOKENS)


def two_layers():
    return GPT2(GPT2Config(vocab_size=2048, n_positions=192, n_embd=16, n_layer=2, n_head=2))


def check_merged(run, base, merged):
    """The merged folder holds a plain model, the base's tokenizer, and computes what base and adapter do."""
    model, params = load_pretrained(base)
    adapter, factors = load_adapter(run / "adapter", params)
    merged_model, plain = load_pretrained(merged)
    assert merged_model.config == model.config
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    expected = jax.jit(lambda params, factors: adapter.apply(model, params, factors, TOKENS))(params, factors)
    np.testing.assert_allclose(logits_of(plain), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected - logits_of(params)).max() > 1e-3
    assert load_tokenizer(merged).encode("a diner") == load_tokenizer(base).encode("a diner")
    return adapter


def test_the_merged_checkpoint_computes_what_the_adapter_does(finished, small_config, tmp_path, capsys):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged/generation_config.json").write_text("{}")  # another model's
    assert merge.main([f"--workdir={finished}", f"--output={tmp_path / 'merged'}"]) == 0
    assert f"the model is in {tmp_path / 'merged'}" in capsys.readouterr().out
    check_merged(finished, small_config.model, tmp_path / "merged")
    assert not (tmp_path / "merged/generation_config.json").exists()


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "hut"])
def test_every_kind_of_adapter_trains_and_merges(name, small_config, tmp_path):
    """The whole life of an adapter of every kind: configured by name, trained, saved, merged, loaded."""
    set_transform(small_config, name)
    small_config.train.update({"steps": 3, "warmup": 0.0, "decay": "constant", "learning_rate": 0.05, "dropout": False})
    small_config.train.remat = "none"  # compiles sooner
    train(freeze(small_config), tmp_path / "run")
    assert merge.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"]) == 0
    adapter = check_merged(tmp_path / "run", small_config.model, tmp_path / "merged")
    assert type(adapter.transform) is TRANSFORMS[name]


@pytest.mark.full
def test_a_scanned_run_merges_as_any_other(small_config, tmp_path):
    small_config.train.update({"steps": 1, "warmup": 0.0, "learning_rate": 0.1, "scan_layers": True})
    train(freeze(small_config), tmp_path / "run")
    merge.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'merged'}"])
    check_merged(tmp_path / "run", small_config.model, tmp_path / "merged")


def test_it_can_be_written_in_bf16(finished, tmp_path):
    merge.main([f"--workdir={finished}", f"--output={tmp_path / 'merged'}", "--dtype=bfloat16"])
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
