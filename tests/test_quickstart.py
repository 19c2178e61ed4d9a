"""The quickstart: what it prints and keeps, and that HUT does the task which the base cannot do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hut_jax import quickstart
from hut_jax.quickstart import GOAL, Figures, mark, reaches_goal, table

ROOT = Path(__file__).parent.parent
GOOD = Figures(perplexity=1.5, names=0.95, slots=0.875, bleu=0.4)
BAD = Figures(perplexity=206.0, names=0.0, slots=0.031, bleu=0.0)


def test_the_goal_is_reached_if_the_trained_model_does_the_task_and_the_base_does_not():
    assert reaches_goal(BAD, GOOD)
    assert not reaches_goal(GOOD, GOOD)
    assert not reaches_goal(BAD, BAD)
    assert not reaches_goal(BAD, Figures(1.5, names=0.95, slots=0.79, bleu=0.4))
    assert not reaches_goal(Figures(206.0, names=0.9, slots=0.0, bleu=0.0), GOOD)


def test_the_table_has_a_column_for_each_model():
    assert table({"base": BAD, "HUT": GOOD}).splitlines() == [
        "                  base      HUT",
        "perplexity      206.00     1.50",
        "names right       0.0%    95.0%",
        "slots right       3.1%    87.5%",
        "BLEU             0.000    0.400",
    ]


def test_wrong_slots_are_marked():
    mr = "name[Tame Otter], food[Welsh]"
    assert mark(mr, "Tame Otter serves Welsh food.") == "✓ all right"
    assert mark(mr, "Tame Otter serves Korean food. It has two stars.") == "✗ wrong: food, customer rating"


@pytest.mark.full
def test_it_prints_what_it_keeps_and_exits_with_1_if_the_goal_was_missed(
    small_model, small_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    workdir = tmp_path / "run"
    settings = {
        "model": small_model, "data.dir": small_data, "data.cache": small_data / "cache", "data.length_multiple": 192,
        "data.slot_multiple": 80, "mesh.data": 1, "train.steps": 2, "adapter.rank": 2,
    }  # fmt: skip
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    assert quickstart.main([f"--workdir={workdir}", *arguments]) == 1
    printed = capsys.readouterr().out
    kept = json.loads((workdir / "result.json").read_text())["quickstart"]
    assert not kept["reached"]
    figures = {name: Figures(**values) for name, values in kept["models"].items()}
    assert figures.keys() == {"base", "HUT"}
    assert table(figures) in printed
    assert printed.endswith("The goal was missed: 90% of names and 80% of slots, neither by the base.\n")
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["model"], line["names"]) for line in logged if line["split"] == "test"] == [
        ("base", figures["base"].names),
        ("HUT", figures["HUT"].names),
    ]
    assert printed.startswith("HUT of rank 2: ")
    assert printed.count("wrong: name") == 6  # three restaurants, and neither model has learned a thing
    (command,) = re.findall(r"^Next: (.*)$", printed, re.MULTILINE)
    assert command.split()[1:3] == ["-m", "hut_jax.train"]


def test_base_tokenizer_and_data_are_small():
    size = sum(path.stat().st_size for path in (ROOT / "assets").rglob("*") if path.is_file())
    assert size <= 4_000_000


@pytest.mark.full
def test_hut_names_restaurants_that_nobody_has_seen_and_the_base_does_not(tmp_path):
    """As a user runs it: with a compiler that optimises, unlike the other tests."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    command = [sys.executable, "-m", "hut_jax.quickstart", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())["quickstart"]
    assert done.returncode == (0 if result["reached"] else 1)
    base, hut = result["models"]["base"], result["models"]["HUT"]
    # Processors round differently, so the same seed may end three of the 100 names above or below the goal.
    assert hut["names"] >= GOAL["names"] - 0.03
    assert hut["slots"] >= GOAL["slots"] - 0.03
    assert base["names"] < 0.1
    assert base["slots"] < 0.1
