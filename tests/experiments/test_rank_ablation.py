"""The whole experiment on a small model, and what it refuses."""

import json
import re
from xml.etree import ElementTree

import pytest

from experiments import rank_ablation, report
from experiments.record import RECORD, read_record
from experiments.results import read_study
from hut_jax.core.errors import UserError


@pytest.fixture
def arguments(small_config_file, tmp_path):
    """The small run's config as a file, and the folder."""
    return [f"--config={small_config_file}", f"--workdir={tmp_path / 'runs'}"]


@pytest.mark.full
def test_it_sweeps_runs_reports_and_runs_nothing_twice(arguments, tmp_path, capfd):
    text = tmp_path / "text.txt"
    text.write_text("there was a diner by the river and it was good to eat there. " * 300)
    grid = ["--methods=hut", "--ranks=1,2", "--seeds=0", f"--text={text}", "--jobs=2"]
    assert rank_ablation.main([*arguments, *grid, "--rates=1,1e30"]) == 0
    names = {str(path.parent.relative_to(tmp_path / "runs")) for path in (tmp_path / "runs").rglob(RECORD)}
    seeds = (0, 1000)
    assert names == {f"hut,rank={rank}/1/{seed}" for rank in (1, 2) for seed in seeds}
    output = capfd.readouterr()
    for adapter in ("hut,rank=1", "hut,rank=2"):
        assert f"note: {adapter}/1e+30/1000 diverged and is left out: step " in output.out + output.err
    trial = read_record(tmp_path / "runs/hut,rank=2/1/1000")
    assert (trial.config["eval.holdout"], trial.config["train.steps"]) == (0.1, 1)
    assert [line["step"] for line in trial.metrics if line["split"] == "validation"] == [0, 1]
    record = read_record(tmp_path / "runs/hut,rank=2/1/0")
    assert record.config["adapter.rank"] == 2
    assert record.score == min(line["loss"] for line in record.metrics if line["split"] == "validation")
    assert record.flops_per_step > 0 < record.seconds_per_step
    assert record.peak_bytes == json.loads((tmp_path / "runs/hut,rank=2/1/0/result.json").read_text())["peak_bytes"] > 0
    assert record.forgetting["before"] != record.forgetting["after"]
    assert (tmp_path / "runs/table.md").read_text() in output.out
    assert ElementTree.parse(tmp_path / "runs/rank.svg").getroot().tag.endswith("svg")
    assert {record.name for record in read_study(tmp_path / "runs/results.jsonl")} == names

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob(RECORD)}
    broken = tmp_path / "runs/hut,rank=2/1/0" / RECORD
    whole = json.loads(broken.read_text())
    broken.write_text(broken.read_text()[:100])
    assert rank_ablation.main([*arguments, *grid, "--rates=1"]) == 0
    assert f"note: {broken} is not JSON" in capfd.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob(RECORD)}
    assert {path for path in before if before[path] != after[path]} == {broken}
    again = json.loads(broken.read_text())  # from its last checkpoint: nothing of it is trained twice
    assert after.keys() == before.keys()
    may_differ = {"forgetting": None, "commit": ""}
    assert again | may_differ == whole | may_differ
    assert again["forgetting"] == pytest.approx(whole["forgetting"])

    tables = (tmp_path / "runs/table.md").read_text()
    assert re.search(r"\| HUT, r = 2 \| 2e-2 \| \S+ \| 1 \|", tables)
    for study in (tmp_path / "runs", tmp_path / "runs/results.jsonl"):
        capfd.readouterr()
        assert report.main([str(study)]) == 0
        assert capfd.readouterr().out == tables
    results = read_study(tmp_path / "runs/results.jsonl")
    elsewhere = [f"--workdir={tmp_path / 'elsewhere'}", f"--results={tmp_path / 'runs/results.jsonl'}"]
    assert (
        rank_ablation.main([*arguments, *grid, "--rates=1", *elsewhere]) == 0
    )  # what the JSONL holds is not run again
    assert read_study(tmp_path / "runs/results.jsonl") == results
    assert not (tmp_path / "elsewhere/hut,rank=2/1/0/log.txt").exists()


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--methods=hut,lore", "--methods: 'lore' has no rank, or there is no such method; did you mean 'lora'"),
        ("--methods=ia3", "--methods: 'ia3' has no rank"),
        ("--ranks=1,two", "--ranks=1,two: whole numbers above 0 are wanted"),
        ("--ranks=0", "--ranks=0: whole numbers above 0 are wanted"),
        ("--rates=fast", "--rates=fast: numbers above 0 are wanted"),
        ("--seeds=0,1000", "--seeds=0,1000: seed 1000 chooses the learning rates; leave it out"),
        ("--seeds=-1", "--seeds=-1: whole numbers of 0 or more are wanted"),
    ],
)
def test_bad_arguments_are_one_line(argument, reason, arguments):
    with pytest.raises(UserError, match=reason):
        rank_ablation.main([*arguments, argument])
