"""How far kernels moved, against what is known of them."""

from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.movement import Moved, effective_rank, main, moved, short_names
from experiments.record import complete
from experiments.results import write_study
from hut_jax import HUT, UserError
from hut_jax.adapters.adapter import Adapter


def test_a_scaled_kernel_moved_by_the_scale_and_in_its_own_rank_and_a_head_is_left_out():
    random = np.random.default_rng(0)
    kernel = jnp.asarray(random.normal(size=(6, 2)) @ random.normal(size=(2, 4)), jnp.float32)
    params = {"layer_3": {"dense": {"kernel": kernel}}, "head": {"kernel": jnp.zeros((4, 2))}}
    adapter = Adapter(HUT(rank=1, scale=False, shift=False), "dense", also_train="^head")
    factors = {
        "layer_3": {"dense": {"a": np.full((6, 1), 0.5, np.float32), "b": np.zeros((1, 4), np.float32)}},
        "head": {"kernel": {"d": np.ones((4, 2), np.float32)}},
    }
    (row,) = moved(adapter, params, factors)
    assert (row.kernel, row.layer, row.rank) == ("layer_3/dense", 3, 2)
    assert row.norm == pytest.approx(0.5, rel=1e-5)
    assert row.factors == {"a": [0.5, 0.5, 0.5], "b": [0.0, 0.0, 0.0]}


def test_the_rank_holds_most_of_the_norm():
    assert effective_rank(np.zeros((3, 3))) == 0
    assert effective_rank(np.diag([1.0, 1.0, 0.05])) == 2
    assert effective_rank(np.diag([1.0, 1.0, 0.5])) == 3


@pytest.mark.full
def test_tables_and_pictures_of_a_run(small_config, finish, make, tmp_path, capsys):
    small_config.train.scan_layers = True
    workdir = finish(small_config)
    main([str(workdir), f"--output={tmp_path / 'out'}"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| layer_")]
    assert len(rows) == 4  # query and value of two layers
    assert all(float(line.split(" | ")[1]) > 0 for line in rows)
    assert (tmp_path / "out/movement.png").stat().st_size > 10_000
    assert ElementTree.parse(tmp_path / "out/movement.svg").getroot().tag.endswith("svg")
    write_study(tmp_path / "study.jsonl", [complete(make(name="run/1/0"), workdir), make()])
    main([str(tmp_path / "study.jsonl"), f"--output={tmp_path / 'again'}"])  # the same figures, from the study's file
    text = (tmp_path / "out/movement.md").read_text()
    assert (tmp_path / "again/movement.md").read_text() == text.replace("run:\n", "run/1/0:\n")


def test_a_row_for_each_study_and_method(make, tmp_path, capsys):
    def study(name, **methods):
        records = [
            make(method, seed=seed, movement=[Moved("layer_0/query", norm, rank, {})._asdict()])
            for method, kernels in methods.items()
            for seed, (norm, rank) in enumerate(kernels)
        ]
        write_study(tmp_path / f"{name}.jsonl", records)
        return str(tmp_path / f"{name}.jsonl")

    one, other = study("one", lora=[(0.1, 2)], hut=[(0.2, 3), (0.4, 5)]), study("other", hut=[(0.6, 7)])
    main([one, other, "--table=adapters"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| one: HUT | 0.20 to 0.40 | 0.30 | 3 to 5 |",
        "| one: LoRA | 0.10 to 0.10 | 0.10 | 2 to 2 |",
        "| other: HUT | 0.60 to 0.60 | 0.60 | 7 to 7 |",
    ]


def test_runs_are_called_by_what_tells_them_apart(tmp_path):
    assert short_names([tmp_path / "hut/1/0"]) == ["0"]
    assert short_names([tmp_path / "hut/1/0", tmp_path / "lora/1/0"]) == ["hut/1/0", "lora/1/0"]
    assert short_names([tmp_path / "one", tmp_path]) == ["one", "."]


def test_a_folder_without_a_run_is_told(make, tmp_path):
    with pytest.raises(UserError, match="no run"):
        main([str(tmp_path)])
    (tmp_path / "other.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"other.jsonl is no study's JSONL"):
        main([str(tmp_path / "other.jsonl")])
    write_study(tmp_path / "study.jsonl", [make()])
    with pytest.raises(UserError, match=r"no run of .*study.jsonl was measured; give the runs' workdirs"):
        main([str(tmp_path / "study.jsonl")])


@pytest.mark.full
def test_a_new_head_which_began_at_zero_is_left_out(glue_config, finish, capsys):
    main([str(finish(glue_config))])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 4  # query and value of two layers
    assert "classifier" not in "".join(rows)
