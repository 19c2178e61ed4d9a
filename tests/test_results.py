"""Each table of docs/results.md and docs/glue.md is what the command above it prints of the files in results/."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments.results import read_study

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"\n((?:    .*\n)+)\n((?:\|.*\n)+)")
"""The commands, indented, and the table under them."""


def tables_of(page):
    """The command and the table, for each table of ours on the page."""
    ours = (ROOT / "docs" / page).read_text().partition("## What others published")[0]
    found = [(block, table) for block, table in TABLE.findall(ours)]
    assert len(found) == len(re.findall(r"^\|--", ours, re.MULTILINE)), "a table has no command above it"
    return [pytest.param(last_command(block), table, id=f"{page}-{i}") for i, (block, table) in enumerate(found)]


def last_command(block):
    """The arguments of the last command in a block, as a shell expands them."""
    line = block.replace("\\\n", " ").strip().splitlines()[-1].strip()
    expanded = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    return expanded.stdout.splitlines()


@pytest.mark.parametrize(("command", "table"), [*tables_of("results.md"), *tables_of("glue.md")])
def test_a_table_is_what_its_command_prints(command, table, capsys, monkeypatch):
    python, option, module, *arguments = command
    assert (python, option) == ("python", "-m")
    monkeypatch.chdir(ROOT)
    importlib.import_module(module).main(arguments)
    shown = "".join(f"{line}\n" for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert shown == table, shlex.join(command)


def test_every_study_can_be_read():
    names = [file.name for file in (ROOT / "results").glob("*.jsonl")]
    assert sum(len(read_study(ROOT / "results" / name)) for name in names) == 596
