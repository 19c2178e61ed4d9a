"""The tables of docs/results.md say what the records in results/ say."""

import json
import re
import statistics
from pathlib import Path

import pytest

from experiments.report import against_peer, at_best_rates, by_cell
from experiments.study import read_study

ROOT = Path(__file__).parent.parent
STUDIES = {
    "RoBERTa": "roberta_books/sst2",
    "E2E again": "e2e_again",
    "CoLA": "minilm/cola",
    "STS-B": "minilm/stsb",
    "MRPC": "minilm/mrpc",
    "SST-2": "minilm/sst2",
    "E2E": "e2e_books",
}
READINGS = {
    "block, scale and shift: the default": "",
    "cyclic, scale and shift": "spread=cyclic",
    "block, neither": "scale=False, shift=False",
    "cyclic, neither": "spread=cyclic, scale=False, shift=False",
}
WRITTEN = ("BLEU", "NIST", "METEOR", "ROUGE-L", "CIDEr")
"""The scores of what a run wrote for E2E's test set, as `hut_jax.evaluate` leaves them beside the record."""
METHODS = ("hut", "lora", "hira", "dora", "ia3", "ssf", "bitfit", "layernorm", "full", "head")
RANK = 8
"""Of the methods that have one, in tables that name none, and of the LoRA that those without are compared with."""


def cells_of_tables(text):
    """Section, a row's label, the head of a column, and what stands there."""
    for section in re.split(r"\n## ", text)[1:]:
        title, head = section.splitlines()[0], []
        for line in section.splitlines():
            parts = [part.strip().replace("**", "") for part in line.strip()[1:-1].split("|")]
            if not line.startswith("|"):
                head = []
            elif not head:
                head = parts
            elif not line.startswith("|--"):
                for name, value in zip(head[1:], parts[1:], strict=False):
                    yield title, parts[0], name, value


def which(title, label, column):
    """The study's name, and method, rank and settings of a cell."""
    study = next(name for where in (column, title) for name in STUDIES if name in where)
    words = re.findall(r"[a-z0-9]+", f"{label} {column}".lower())
    method = next((word for word in words if word in METHODS), "hut")
    ranked = re.search(r"r = (\d+)|^(\d+)$", label)
    rank = int(ranked[1] or ranked[2]) if ranked else RANK
    return study, method, rank, READINGS.get(label, "")


def agree(shown, exact):
    """Whether the figures are the exact ones, rounded once."""
    return all(
        abs(own - float(figure)) <= 0.501 * 10.0 ** -len(figure.partition(".")[2])
        for figure, own in zip(shown, exact, strict=True)
    )


@pytest.fixture(scope="module")
def studies():
    """Each study's records by method, rank, where there is one, and settings."""
    return {
        name: {
            (key.method, key.rank, key.settings): group
            for key, group in by_cell(at_best_rates(read_study(ROOT / "results" / folder))).items()
        }
        for name, folder in STUDIES.items()
    }


@pytest.fixture(scope="module")
def cells():
    ours, _ = (ROOT / "docs/results.md").read_text().split("## What others published")
    return list(cells_of_tables(ours))


def group_of(studies, study, method, rank, settings):
    found = studies[study]
    return found.get((method, rank, settings)) or found[method, None, settings]


def shown_of(record, folder, column):
    """What a column shows of a run: its score, unless the column is of something else."""
    if column.endswith("forgets"):
        return record.forgetting["after"] - record.forgetting["before"]
    if column in WRITTEN:
        evaluation = json.loads((folder / record.name / "evaluation.json").read_text())
        return evaluation["scores"][column.replace("-", "_")]
    return record.score


def test_each_mean_and_deviation(studies, cells):
    shown = [(*each[:3], figures) for each in cells if (figures := re.findall(r"(\d+\.\d+) ± (\d+\.\d+)", each[3]))]
    assert len(shown) > 100
    wrong = []
    for title, label, column, (figures,) in shown:
        study, *key = which(title, label, column)
        values = [
            shown_of(record, ROOT / "results" / STUDIES[study], column) for record in group_of(studies, study, *key)
        ]
        exact = statistics.mean(values), statistics.stdev(values)
        wrong += [] if agree(figures, exact) else [(title, label, column, figures, exact)]
    assert not wrong


def test_each_difference_and_its_p(studies, cells):
    shown = [(*each[:3], figures) for each in cells if (figures := re.findall(r"([+-]\d+\.?\d*) \((\S+)\)", each[3]))]
    assert len(shown) > 80
    wrong = []
    for title, label, column, (figures,) in shown:
        study, method, rank, settings = which(title, label, column)
        peer = "hut" if "default" in column else "lora"
        own = group_of(studies, study, method, rank, settings)
        exact = against_peer(own, group_of(studies, study, peer, rank, ""))
        wrong += [] if agree(figures, exact) else [(title, label, column, figures, exact)]
    assert not wrong


def test_numbers_that_train_and_bytes(studies, cells):
    shown = [each for each in cells if each[2] in ("trains", "adapter, kB")]
    assert len(shown) > 50
    wrong = []
    for title, label, column, figure in shown:
        record = group_of(studies, *which(title, label, column))[0]
        exact = record.trainable if column == "trains" else record.adapter_bytes / 1000
        wrong += [] if agree([figure.replace(",", "")], [exact]) else [(title, label, column, figure, exact)]
    assert not wrong


def test_each_trial_of_a_rate(cells):
    runs = {name: {r.name: r.score for r in read_study(ROOT / "results" / folder)} for name, folder in STUDIES.items()}
    shown = [each for each in cells if "× " in each[2]]
    assert len(shown) > 150
    wrong = []
    for title, label, column, figure in shown:
        study, method, rank, settings = which(title, label, column)
        ranked = ",".join([method, f"rank={rank}", *filter(None, settings.split(", "))])
        at = f"{column.partition('× ')[2]}/0"
        exact = runs[study].get(f"{ranked}/{at}") or runs[study][f"{method}/{at}"]
        wrong += [] if agree([figure], [exact]) else [(title, label, column, figure, exact)]
    assert not wrong


def test_how_far_the_kernels_moved(cells):
    shown = [each for each in cells if each[0] == "How far the kernels moved"]
    assert len(shown) == 15
    wrong = []
    for _, label, column, text in shown:
        study, method = label.lower().split(": ")
        file = ROOT / "results" / f"movement_{study.replace('-', '')}" / "movement.json"
        rows = [row for of, kernels in json.loads(file.read_text()).values() if of == method for row in kernels]
        values = [row[2 if "singular" in column else 1] for row in rows]
        exact = [statistics.mean(values)] if "mean" in column else [min(values), max(values)]
        figures = re.findall(r"\d+\.?\d*", text)[: len(exact)]
        wrong += [] if agree(figures, exact) else [(label, column, figures, exact)]
    assert not wrong
