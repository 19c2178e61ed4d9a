"""docs/start.md: its tables are what their commands print, and its other figures are those of the records."""

import functools
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from experiments import results
from experiments.analysis import at_best_learning_rates, first_trials, select, to_frame
from experiments.results import read_study
from hut_jax.transforms import HUT

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/start.md").read_text()
PRINTED = re.findall(r"\n((?:    .*\n)+)\n((?:\|.*\n)+)", PAGE)
"""A command, indented, and the table under it."""


@pytest.fixture(autouse=True)
def each_study_is_read_once(monkeypatch):
    monkeypatch.setattr(results, "_of_file", lambda path: list(read_once(path.resolve())))


read_once = functools.cache(results._of_file)


@pytest.mark.parametrize(("command", "table"), PRINTED)
def test_a_table_is_what_its_command_prints(command, table, capsys, monkeypatch):
    line = command.replace("\\\n", " ").strip()
    expanded = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    python, option, module, *arguments = expanded.stdout.splitlines()
    assert (python, option) == ("python", "-m")
    monkeypatch.chdir(ROOT)
    importlib.import_module(module).main(arguments)
    shown = "".join(f"{row}\n" for row in capsys.readouterr().out.splitlines() if row.startswith("|"))
    assert shown == table, shlex.join(arguments)


def trials(study):
    """The first seed's runs of HUT and LoRA of rank 8, for each learning rate."""
    runs = to_frame(read_study(ROOT / f"results/{study}.jsonl"))
    return first_trials(select(runs, methods=["hut", "lora"], ranks=[8], plain=True))


def test_the_other_figures_are_those_of_the_records():
    ratios = []
    for study in ("minilm_cola", "minilm_stsb", "minilm_mrpc", "minilm_sst2", "e2e_books", "e2e_again"):
        tried = trials(study)
        best = tried.loc[tried.groupby("method")["merit"].idxmax()].set_index("method")["learning_rate"]
        ratios.append(best["hut"] / best["lora"])
    assert f"was {round(min(ratios))} to {round(max(ratios))} times LoRA's" in PAGE

    cola = trials("minilm_cola").query("method == 'hut'").set_index("learning_rate")["score"]
    assert cola[3e-2] < 0.5 * cola[1e-2] == 0.5 * cola.max()
    assert "lost most of its score on CoLA" in PAGE

    again = at_best_learning_rates(to_frame(read_study(ROOT / "results/e2e_again.jsonl")))
    loss = again.groupby("spec")["score"].mean()
    gain = loss["hut:rank=8"] - loss["hut:rank=8:spread=cyclic:scale=False:shift=False"]
    assert f"was better by {gain:.2f} nats" in PAGE

    assert f"| {HUT.learning_rate:.0e}, the default |".replace("e-0", "e-") in PAGE


def test_no_figure_of_the_page_is_without_a_test():
    """Numbers outside code and printed tables: those that are tested above, and settings to try."""
    text = PAGE
    for command, table in PRINTED:
        text = text.replace(command, "").replace(table, "")
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|GPT-2s?|^    .*$", "", text, flags=re.MULTILINE)
    shown = set(re.findall(r"(?<![\w.])\d[\d.,]*(?:e-\d)?(?![\w])", text))
    tested = {"6", "20", "0.17", "2e-2", "0.001", "0.748"}
    settings = {"1e-2", "3e-2", "1e-1", "5e-3", "5e-2", "4", "8", "1", "0.01", "16", "2"}
    assert {number.rstrip(".,") for number in shown} == tested | settings
