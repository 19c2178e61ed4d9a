"""Records of version 0.1, one file a run, become a study's JSONL."""

import json

import pytest

from experiments.convert_records import main
from experiments.results import read_study
from hut_jax import UserError

CONFIG = {"adapter.rank": 8, "train.also_train_learning_rate": 1e-3, "seed": 1, "data.dir": "GLUE"}


def old_record(name, method, rate, **fields):
    """A `record.json` as version 0.1 wrote it."""
    scores = {"loss": 0.7, "matthews": 0.25, "headline": 0.25}
    window = {"step": 50, "split": "train", "loss": 0.6, "seconds_per_update": 0.3}
    return {
        "name": name, "config": CONFIG | {"adapter.name": method, "train.learning_rate": rate}, "seed": 1,
        "metrics": [{"step": 0, "split": "validation", **scores}, window], "best": {"step": 0, **scores},
        "headline": "headline", "maximize": True, "trainable": 1200, "total": 100_000, "adapter_bytes": 5000,
        "seconds_per_update": 0.3, "peak_bytes": 3_000_000, "flops_per_update": 4_000_000, "forgetting": None,
        "base": {"name": "x", "fingerprint": "y"}, "versions": {"jax": "0.10.2"}, "device": "1 x cpu", "cores": 1,
        "platform": "Linux", "commit": "abc",
    } | fields  # fmt: skip


@pytest.fixture
def convert(tmp_path, capsys):
    """Write old records as files, convert them, and return the new ones."""

    def convert_them(*records, **movement):
        for record in records:
            folder = tmp_path / "old" / "/".join(record["name"].split("/")[-3:])
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps(record))
            (folder / "evaluation.json").write_text('{"scores": {"BLEU": 0.5}}')
            (folder / "test_outputs.txt").write_text("a café\n", encoding="utf-8")
        (tmp_path / "movement.json").write_text(json.dumps(movement))
        main([str(tmp_path / "old"), str(tmp_path / "new.jsonl"), f"--movement={tmp_path / 'movement.json'}"])
        assert f"{len(records)} runs in" in capsys.readouterr().out
        return read_study(tmp_path / "new.jsonl")

    return convert_them


def test_every_figure_has_its_new_name(convert):
    kernel = ["layer_0/query", 0.5, 12, {"a": [-1.0, 0.0, 1.0]}]
    old = old_record("hut,rank=8,spread=cyclic/0.5/1", "hut", 1e-2)
    (record,) = convert(old, **{old["name"]: ["hut", [kernel]]})
    assert (record.method, record.rank, record.settings) == ("hut", 8, "spread=cyclic")
    assert (record.learning_rate, record.learning_rate_multiple, record.seed) == (1e-2, 0.5, 1)
    assert (record.score_name, record.score, record.maximize) == ("score", 0.25, True)
    assert record.best == {"step": 0, "loss": 0.7, "matthews": 0.25, "score": 0.25}
    assert record.metrics[1] == {"step": 50, "split": "train", "loss": 0.6, "seconds_per_step": 0.3}
    assert (record.seconds_per_step, record.flops_per_step) == (0.3, 4_000_000)
    assert record.evaluation == {"scores": {"BLEU": 0.5}, "texts": ["a café"]}
    assert record.movement == [dict(zip(("kernel", "norm", "rank", "factors"), kernel, strict=True))]
    for field in old.keys() - {"best", "headline", "metrics", "seconds_per_update", "flops_per_update"}:
        assert getattr(record, field) == old[field]


def test_a_run_of_glue_minilm_is_named_as_in_other_studies(convert):
    records = convert(
        old_record("cola/hut/0.01/1", "hut", 1e-2),
        old_record("cola/head/0.002/1", "full", 2e-3, config=CONFIG | {"train.learning_rate": 2e-3}),
    )
    assert [record.name for record in records] == ["head,rank=8/2/1", "hut,rank=8/0.5/1"]


def test_where_there_is_no_record_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no run's record\.json in .*none"):
        main([str(tmp_path / "none"), str(tmp_path / "new.jsonl")])
