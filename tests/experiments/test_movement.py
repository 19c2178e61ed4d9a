"""How far kernels moved, against what is known of them."""

from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.movement import effective_rank, main, moved, short_names
from hut_jax import HUT, UserError
from hut_jax.adapters.adapter import Adapter
from hut_jax.config import freeze
from hut_jax.train import train


def test_a_scaled_kernel_moved_by_the_scale_and_in_its_own_rank():
    random = np.random.default_rng(0)
    kernel = random.normal(size=(6, 2)) @ random.normal(size=(2, 4))
    params = {"layer_3": {"dense": {"kernel": jnp.asarray(kernel, jnp.float32)}}, "norm": {"scale": jnp.ones(4)}}
    adapter = Adapter(HUT(rank=1, scale=False, shift=False), "dense")
    factors = {"layer_3": {"dense": {"a": jnp.full((6, 1), 0.5), "b": jnp.zeros((1, 4))}}}
    (row,) = moved(adapter, params, factors)
    assert (row.path, row.layer, row.rank) == ("layer_3/dense", 3, 2)
    assert row.norm == pytest.approx(0.5, rel=1e-5)
    assert row.factors == {"a": [0.5, 0.5, 0.5], "b": [0.0, 0.0, 0.0]}


def test_the_rank_holds_most_of_the_norm():
    assert effective_rank(np.zeros((3, 3))) == 0
    assert effective_rank(np.diag([1.0, 1.0, 0.05])) == 2
    assert effective_rank(np.diag([1.0, 1.0, 0.5])) == 3


def test_tables_and_pictures_of_a_run(small_config, tmp_path, capsys):
    small_config.train.update({"steps": 2, "warmup": 0.0, "scan_layers": True})
    train(freeze(small_config), tmp_path / "run")
    capsys.readouterr()
    main([str(tmp_path / "run"), f"--output={tmp_path / 'out'}"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| layer_")]
    assert len(rows) == 4  # query and value of two layers
    assert all(float(line.split(" | ")[1]) > 0 for line in rows)
    assert (tmp_path / "out/movement.png").stat().st_size > 10_000
    assert ElementTree.parse(tmp_path / "out/movement.svg").getroot().tag.endswith("svg")
    main([str(tmp_path / "out/movement.json"), f"--output={tmp_path / 'again'}"])
    for name in ("movement.md", "movement.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    assert short_names([tmp_path / "hut/1/0"]) == ["0"]
    assert short_names([tmp_path / "hut/1/0", tmp_path / "lora/1/0"]) == ["hut/1/0", "lora/1/0"]
    assert short_names([tmp_path / "one", tmp_path]) == ["one", "."]


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match="no run"):
        main([str(tmp_path)])
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(UserError, match=r"other.json is no movement.json that --output wrote"):
        main([str(tmp_path / "other.json")])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other.json has no runs"):
        main([str(tmp_path / "other.json")])


def test_a_new_head_which_began_at_zero_is_left_out(glue_config, tmp_path, capsys):
    glue_config.train.steps = 2
    train(freeze(glue_config), tmp_path / "run")
    capsys.readouterr()
    main([str(tmp_path / "run")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 4  # query and value of two layers
    assert "classifier" not in "".join(rows)
