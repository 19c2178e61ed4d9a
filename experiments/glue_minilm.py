"""HUT, LoRA, full fine-tuning and the head alone on five tasks of GLUE, from a real pretrained encoder, MiniLM-L6.

    python -m experiments.glue_minilm --data=GLUE --jobs=2

`GLUE` is the folder of the official files. First each task of the sweep is learned at each of a method's rates, with
one seed; then every task at the rate found, with all seeds. A task that was not swept takes the rate whose ranks over
the swept ones sum lowest. What has run is not run again, so the same command goes on where it was stopped; at the end
it prints the tables, and `--tables` prints them of what there is. Runs that are named, TASK/METHOD/RATE/SEED each, run
alone: `cola/hut/0.01/0 cola/full/0.0001/0`. `results.json` in the workdir has a line for each, with its command.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import rankdata

from experiments.grid import run_missing
from experiments.record import RECORD, read_record
from hut_jax.config import RunConfig, freeze, set_transform
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_json
from hut_jax.runs import config_files

TASKS = ("cola", "sst2", "mrpc", "stsb", "rte")
SWEPT = ("mrpc", "stsb", "cola")  # the longest first, so that jobs end together
EXAMPLES = {"sst2": 10_000}
"""Of SST-2 a part is learned from: all of it takes hours on two cores."""
HEAD = ("^(pooler|classifier)",)
"""BERT's head is the pooler and what follows it, as RoBERTa's is two layers."""


class Method(NamedTuple):
    """A row of the table."""

    transform: str
    settings: dict[str, float]
    rates: tuple[float, ...]
    seeds: int


METHODS = {
    "hut": Method("hut", {"rank": 8}, (3e-3, 1e-2, 3e-2, 1e-1), 3),
    "lora": Method("lora", {"rank": 8, "alpha": 16.0}, (3e-4, 1e-3, 3e-3, 1e-2), 3),
    "head": Method("full", {}, (1e-3,), 1),
    "full": Method("full", {}, (1e-4,), 1),
}


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="TASK/METHOD/RATE/SEED", help="run only these")
    parser.add_argument("--data", required=True, help="the folder of GLUE's official files")
    parser.add_argument("--workdir", type=Path, default=Path("results/glue_minilm"), help="where the runs are kept")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    args = parser.parse_args()
    if not args.tables:
        for names in (args.runs,) if args.runs else (sweep(), repetitions(args.workdir)):
            configs = {name: make_config(name, args.data) for name in names}
            run_missing(configs, args.workdir, jobs=args.jobs)
    write_json(args.workdir / "results.json", results(args.workdir))
    print(f"{rates_table(args.workdir)}\n\n{scores_table(args.workdir)}")


def sweep() -> list[str]:
    """The runs that find the rates."""
    return [
        run_name(task, name, rate, seed=0)
        for task in SWEPT
        for name, method in METHODS.items()
        for rate in method.rates
        if len(method.rates) > 1
    ]


def repetitions(workdir: Path) -> Iterator[str]:
    """The runs of the table; the rates are looked up when the sweep has run."""
    for name, method in sorted(METHODS.items(), key=lambda item: -item[1].seeds):
        for seed in range(method.seeds):
            for task in TASKS:
                yield run_name(task, name, best_rate(workdir, task, name), seed)


def run_name(task: str, method: str, rate: float, seed: int) -> str:
    """The folder of a run."""
    return f"{task}/{method}/{rate:g}/{seed}"


def score(workdir: Path, name: str) -> float | None:
    """A run's best headline on the dev set, if it has run."""
    return read_record(workdir / name).score if (workdir / name / RECORD).exists() else None


def best_rate(workdir: Path, task: str, name: str) -> float:
    """The rate that the sweep found for a task.

    Raises:
        UserError: the sweep has not run.
    """
    rates = METHODS[name].rates
    if len(rates) == 1:
        return rates[0]
    ranks = dict.fromkeys(rates, 0.0)
    for swept in (task,) if task in SWEPT else SWEPT:
        found = {rate: score(workdir, run_name(swept, name, rate, 0)) for rate in rates}
        scores = {rate: value for rate, value in found.items() if value is not None}
        if len(scores) < len(rates):
            raise UserError(f"{name} has not been swept on {swept} yet")
        for rate, rank in zip(rates, rankdata([-scores[rate] for rate in rates]), strict=True):
            ranks[rate] += rank  # of equal scores the mean of theirs
    return min(rates, key=lambda rate: ranks[rate])


def make_config(name: str, data: str) -> RunConfig:
    """The config of a run, from its name.

    Raises:
        UserError: there is no such run.
    """
    known = re.fullmatch(rf"({'|'.join(TASKS)})/({'|'.join(METHODS)})/(\d[\d.e-]*)/(\d+)", name)
    if known is None:
        raise UserError(
            f"no run is called {name!r}: TASK/METHOD/RATE/SEED, with TASK one of {', '.join(TASKS)} and METHOD one of "
            f"{', '.join(METHODS)}, such as cola/hut/0.01/0"
        )
    task, method, rate, seed = known.groups()
    config = config_files.load_config_file(f"configs/minilm.py:{task}")
    set_transform(config, METHODS[method].transform, **METHODS[method].settings)
    config.adapter.also_train = HEAD
    if method == "head":
        config.adapter.also_train, config.adapter.targets = (), HEAD
    config.seed = int(seed)
    config.data.dir = data
    config.data.max_examples = EXAMPLES.get(task, 0)
    config.train.learning_rate = float(rate)
    config.eval.every = 150
    return freeze(config)


def results(workdir: Path) -> list[dict[str, Any]]:
    """Of each run what it was and what it gave."""
    records = [read_record(path.parent) for path in sorted(workdir.glob(f"*/*/*/*/{RECORD}"))]
    return [
        {
            "command": f"python -m experiments.glue_minilm --data=GLUE {record.name}",
            "score": record.score,
            "best": record.best,
            "seconds_per_update": record.seconds_per_update,
            "trainable": record.trainable,
            "commit": record.commit,
            "device": record.device,
            "cores": record.cores,
            "versions": record.versions,
        }
        for record in records
    ]


def rates_table(workdir: Path) -> str:
    """What each rate of the sweep gave."""
    lines = ["| | rate | " + " | ".join(SWEPT) + " |", "|---" * (len(SWEPT) + 2) + "|"]
    for name, method in METHODS.items():
        for rate in method.rates if len(method.rates) > 1 else ():
            scores = [score(workdir, run_name(task, name, rate, 0)) for task in SWEPT]
            cells = ["-" if value is None else f"{value:.3f}" for value in scores]
            lines.append(f"| {name} | {rate:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scores_table(workdir: Path) -> str:
    """The mean of each task's best headline over the seeds that have run at the best rate, and what each seed gave."""
    lines = ["| | " + " | ".join(TASKS) + " |", "|---" * (len(TASKS) + 1) + "|"]
    for name, method in METHODS.items():
        cells = []
        for task in TASKS:
            try:
                rate = best_rate(workdir, task, name)
            except UserError:
                cells.append("-")
                continue
            found = [score(workdir, run_name(task, name, rate, seed)) for seed in range(method.seeds)]
            scores = [value for value in found if value is not None]
            each = " / ".join(f"{value:.3f}" for value in scores)
            cells.append(f"**{statistics.mean(scores):.3f}** ({each}; {rate:g})" if scores else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
