"""What the experiments need beside the package."""

import importlib.util
import runpy
import tomllib
from pathlib import Path

import pytest

import experiments

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_is_missing_is_said_before_a_run_starts(monkeypatch):
    """The check is in the package's own file, which Python reads before any experiment."""
    file, find = str(ROOT / "experiments/__init__.py"), importlib.util.find_spec
    runpy.run_path(file)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(SystemExit, match=r'^error: the experiments need matplotlib: pip install "\.\[experiments\]"$'):
        runpy.run_path(file)


def test_the_extra_has_it_and_all_extras_have_the_versions_of_the_tests():
    extra = PROJECT["project"]["optional-dependencies"]["experiments"]
    assert {line.partition(">=")[0] for line in extra} == {*experiments.NEEDED}
    for extra in PROJECT["project"]["optional-dependencies"].values():
        assert {*extra} <= {*PROJECT["dependency-groups"]["test"]}
