"""Each table of docs/results.md and docs/glue.md is what the command above it prints of the files in results/."""

import functools
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments import results
from experiments.choosing import NEVER, SEED
from experiments.grid import run_missing
from experiments.results import read_study
from experiments.study import make_run, make_trial, restore
from hut_jax.config import freeze
from hut_jax.runs import config_files

ROOT = Path(__file__).parent.parent
OFTEN = {"data.max_examples": 0, "eval.every": 150}
CONFIGS = {
    **{f"minilm_{task}": (f"minilm.py:{task}", {}) for task in ("cola", "stsb", "mrpc", "sst2")},
    **{f"hut_lora_minilm_{task}": (f"minilm.py:{task}", OFTEN) for task in ("cola", "mrpc", "stsb", "rte")},
    "hut_lora_minilm_sst2": ("minilm.py:sst2", OFTEN | {"data.max_examples": 10_000}),
    "roberta_books_sst2": (
        "roberta_books.py:sst2",
        {"model": "runs/bases/roberta_50m/merged", "tokenizer": "tokenizers/roberta"},
    ),
    "e2e_books": ("e2e_books.py:gpt2_50m", {"tokenizer": "tokenizers/gpt2"}),
    "quickstart_ranks": ("quickstart.py", {"eval.every": NEVER}),
    "e2e_again": ("e2e_books.py:gpt2_50m", {"tokenizer": "tokenizers/gpt2"}),
}
"""The config of each study, and what its command on the page sets of it."""
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


@pytest.fixture(autouse=True)
def each_study_is_read_once(monkeypatch):
    monkeypatch.setattr(results, "_of_file", lambda path: list(read_once(path.resolve())))


read_once = functools.cache(results._of_file)


@pytest.mark.parametrize(("command", "table"), [*tables_of("results.md"), *tables_of("glue.md")])
def test_a_table_is_what_its_command_prints(command, table, capsys, monkeypatch):
    python, option, module, *arguments = command
    assert (python, option) == ("python", "-m")
    monkeypatch.chdir(ROOT)
    importlib.import_module(module).main(arguments)
    shown = "".join(f"{line}\n" for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert shown == table, shlex.join(command)


SMALLEST = {"hut_lora_minilm_rte", "e2e_again"}  # of an encoder and of GPT-2


@pytest.mark.parametrize("study", [s if s in SMALLEST else pytest.param(s, marks=pytest.mark.full) for s in CONFIGS])
def test_its_command_would_run_nothing_of_a_study_again(study, tmp_path, request):
    file, options = CONFIGS[study]
    if file.startswith("minilm"):
        request.getfixturevalue("minilm")
    config = config_files.load_config_file(str(ROOT / "configs" / file))
    config.update_from_flattened_dict(options)
    records = {record.name: record for record in read_study(ROOT / f"results/{study}.jsonl")}
    runs = {}
    for record in records.values():
        adapter = record.name.rsplit("/", 2)[0].replace(",", ":")
        asked = freeze(config), adapter, record.learning_rate_multiple
        name, runs[record.name] = make_trial(*asked) if record.seed == SEED else make_run(*asked, record.seed)
        assert name == record.name
    restore(ROOT / f"results/{study}.jsonl", tmp_path)
    assert run_missing(runs, tmp_path) == records  # or it names the fields that differ


def test_every_study_is_there_and_whole():
    assert {file.stem for file in (ROOT / "results").glob("*.jsonl")} == CONFIGS.keys()
    assert sum(len(read_study(ROOT / f"results/{study}.jsonl")) for study in CONFIGS) == 622
