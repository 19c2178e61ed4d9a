"""A run whose base is a decoder: trained, evaluated, generated from and merged, by the commands' own functions."""

import json

import jax
import numpy as np
import pytest

from hut_jax import cost, load_pretrained
from hut_jax.config import freeze
from hut_jax.core.errors import UserError
from hut_jax.merge import main as merge
from hut_jax.runs.costs import adapter_cost, make_work
from hut_jax.runs.decoding import Decoder as TextDecoder
from hut_jax.runs.placement import mesh_for, place
from hut_jax.runs.run import make_run
from hut_jax.runs.trained import load_run
from hut_jax.train import train


@pytest.mark.full
def test_cost_is_counted_from_shapes(small_decoder, small_config):
    small_config.model = str(small_decoder)
    config = freeze(small_config)
    counted = adapter_cost(config, make_work(config, length=16))
    assert counted.count.trainable == 2 * (2 * 16 * 2 + 16 + 16 * 2 + 8 * 2 + 8)  # a, b and g of query and value, no s
    assert counted.paper is not None
    assert 0 < counted.paper.forward < counted.forward.flops


@pytest.mark.full
@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_run_from_base_to_merged_checkpoint(small_decoder, small_config, tmp_path, scan_layers):
    small_config.model = str(small_decoder)
    small_config.train.scan_layers = scan_layers
    small_config.train.steps = small_config.eval.every = 6
    workdir = tmp_path / "run"
    train(freeze(small_config), workdir)
    result = json.loads((workdir / "result.json").read_text())
    assert np.isfinite(result["metrics"]["loss"])
    run = load_run(workdir, scan_layers=False)
    decoder = TextDecoder(run, run.task)
    assert decoder._ends == {0, 5}
    (tokens,) = decoder.generate(["name[The Mill], food[English]"])
    assert not {0, 5} & {*tokens}
    merge([f"--workdir={workdir}", f"--output={tmp_path / 'merged'}"])
    model, params = load_pretrained(tmp_path / "merged")
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(run.merge()))
    assert model.config == run.model.config


@pytest.mark.full
def test_cost_leaves_out_what_the_model_cannot_have(small_decoder, config_file, monkeypatch, capsys):
    """Unless it was asked for: a Llama has no biases."""
    arguments = [f"--config={config_file}", f"--config.model={small_decoder}", "--length=16", "--batch=1"]
    with pytest.raises(UserError, match="bitfit has nothing to act on"):
        cost.main([*arguments, "--adapters=hut:rank=1,bitfit"])
    monkeypatch.setattr(cost, "ADAPTERS", "hut:rank=1,bitfit")
    cost.main(arguments)
    printed = capsys.readouterr().out
    assert "| hut:rank=1 |" in printed
    assert "bitfit is left out: bitfit has nothing to act on" in printed


@pytest.mark.full
def test_devices_share_out_the_heads_of_keys(small_decoder, small_config):
    small_config.model = str(small_decoder)
    small_config.mesh.update({"data": 1, "tensor": 2})
    config = freeze(small_config)
    place(make_run(config), mesh_for(config))
    small_config.mesh.tensor = 4  # it divides the attention heads
    config = freeze(small_config)
    with pytest.raises(UserError, match=r"mesh.tensor=4 does not divide the model's 2 heads"):
        place(make_run(config), mesh_for(config))
