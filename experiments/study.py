"""Adapters on one base and task, each at the best of its rates, with several seeds: what the experiments share."""

import argparse
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax

from experiments.forgetting import held_out
from experiments.grid import elsewhere, run_missing
from experiments.record import RECORD, Record, read_record
from experiments.report import Cell, at_best_rates, cell, pareto_picture, rank_picture, rate, rates_table, table
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.config import RunConfig, to_json, with_fields
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_text
from hut_jax.runs.adapter_names import with_adapter
from hut_jax.runs.run import load_base, make_adapter, prepare
from hut_jax.runs.workdir import check_writable

HEAD = "head"
"""Trains what `config.adapter.also_train` names, such as a new head, and nothing else."""


def add_arguments(parser: argparse.ArgumentParser, workdir: str) -> None:
    """The options of an experiment; `workdir` is the default of one."""
    parser.add_argument("--rates", default="1", help="learning rates, in multiples of each adapter's own")
    parser.add_argument("--seeds", default="0", help="the runs of each adapter")
    parser.add_argument(
        "--jobs",
        type=int,
        help="runs at a time; they share out the cores. Default: one a GPU of --gpus; without, two on a processor",
    )
    parser.add_argument("--gpus", default="", help="such as 0,1,2,3: each run takes one; by default each takes all")
    parser.add_argument("--text", default="", help="a text to measure the forgetting of a GPT-2 on")
    parser.add_argument("--workdir", default=workdir, metavar="FOLDER", help="where the runs are kept")
    parser.add_argument("--report", action="store_true", help="run nothing")


def study(config: RunConfig, tuned_as: Mapping[str, str], args: argparse.Namespace) -> None:
    """Run what is missing and report.

    Args:
        config: base, task and all else.
        tuned_as: each adapter, such as `hut:rank=8`, to the one whose rate it takes: itself, or another.
        args: of `add_arguments`.

    Raises:
        UserError: an adapter or an option is wrong, a run fails, or with `--report` there is none.
    """
    rates, seeds = numbers("--rates", args.rates, float), numbers("--seeds", args.seeds, int)
    gpus = [gpu for gpu in args.gpus.split(",") if gpu]
    workdir = Path(args.workdir)
    if args.report:
        records = read_study(workdir)
    else:
        check_writable(workdir)
        base, platform = elsewhere(check, configs_of(config, [*tuned_as], rates, seeds), args.text)
        jobs = default_jobs(gpus, platform) if args.jobs is None else args.jobs
        run = partial(run_missing, workdir=workdir, jobs=jobs, gpus=gpus, text=args.text, base=base)
        tuned = dict.fromkeys(tuned_as.values())
        best, tried = dict.fromkeys(tuned, rates[0]), dict[str, Record]()
        if len(rates) > 1:
            # Those that begin together are of different adapters: what one compiles, its next runs find.
            trials = dict(make_run(config, adapter, rate, seeds[0]) for rate in rates for adapter in tuned)
            tried = run(trials)
            best = best_rates(tuned, rates, seeds[0], tried)
        runs = dict(make_run(config, one, best[other], seed) for seed in seeds for one, other in tuned_as.items())
        records = list((tried | run(runs)).values())
    report(records, workdir)


def configs_of(
    config: RunConfig, adapters: Sequence[str], rates: Sequence[float], seeds: Sequence[int]
) -> list[RunConfig]:
    """A config for each adapter, of those that it may run with.

    Raises:
        UserError: one of all these is wrong, or two adapters are one by two names.
    """
    named: dict[str, str] = {}
    configs = []
    for adapter in adapters:
        first, *_ = [make_run(config, adapter, rate, seed)[1] for rate in rates for seed in seeds]
        other = named.setdefault(to_json(first), adapter)
        if other != adapter:
            raise UserError(f"{other} and {adapter} are the same adapter; name it once")
        configs.append(first)
    return configs


def default_jobs(gpus: Sequence[str], platform: str) -> int:
    """Runs at a time: one a GPU that is named; two on a processor, as a run starts and compiles on one core."""
    return len(gpus) or (min(2, len(os.sched_getaffinity(0))) if platform == "cpu" else 1)


def check(configs: Sequence[RunConfig], text: str) -> tuple[str, str]:
    """Try what can be tried before anything runs: whether base, data and text are there and each adapter fits.

    Args:
        configs: which differ in their adapters alone.
        text: to measure forgetting on, if any.

    Returns:
        The base's fingerprint, "" where each seed draws a base of its own; and the platform that JAX takes.

    Raises:
        UserError: a run would not begin, or forgetting could not be measured.
    """
    run, _ = prepare(configs[0])
    for config in configs[1:]:
        make_adapter(config).sites(run.shapes)
    if text:
        held_out(run.task, run.tokenizer, text)
    base = fingerprint(load_base(configs[0])[1]) if configs[0].init == "pretrained" else ""
    return base, jax.default_backend()


def read_study(workdir: Path) -> list[Record]:
    """The records of all runs that stand there.

    Raises:
        UserError: there is none, or one cannot be read.
    """
    records = [read_record(path.parent) for path in sorted(workdir.glob(f"*/*/*/{RECORD}"))]
    if not records:
        raise UserError(f"no run's {RECORD} in {workdir}")
    named: dict[tuple, str] = {}
    for record in records:
        other = named.setdefault((cell(record), rate(record), record.seed), record.name)
        if other != record.name:
            raise UserError(f"{workdir}: {other} and {record.name} are the same run; take one of them away")
    return records


def make_run(config: RunConfig, adapter: str, rate: float, seed: int) -> tuple[str, RunConfig]:
    """A run's name and its config.

    Raises:
        UserError: there is no such adapter, or it does not go with the config.
    """
    if adapter == HEAD:
        if not config.adapter.also_train:
            raise UserError("head: config.adapter.also_train names no module that could train alone")
        alone = {"adapter.targets": config.adapter.also_train, "adapter.also_train": ()}
        own = with_fields(with_adapter(config, "full"), alone)
        usual = own.train.also_train_learning_rate
    else:
        own = with_adapter(config, adapter)
        usual = own.adapter.transform.learning_rate
    own = with_fields(own, {"train.learning_rate": rate * usual, "seed": seed})
    return run_name(adapter, rate, seed), own


def run_name(adapter: str, rate: float, seed: int) -> str:
    """The folder of a run."""
    return f"{adapter.replace(':', ',')}/{rate:g}/{seed}"


def best_rates(
    adapters: Sequence[str] | Mapping[str, None], rates: Sequence[float], seed: int, tried: Mapping[str, Record]
) -> dict[str, float]:
    """For each adapter the rate whose run has the best score.

    Raises:
        UserError: no rate has a run.
    """

    def score(adapter: str, rate: float) -> float:
        record = tried[run_name(adapter, rate, seed)]
        return record.score if record.maximize else -record.score

    best = {}
    for adapter in adapters:
        ended = [rate for rate in rates if run_name(adapter, rate, seed) in tried]
        if not ended:
            tries = ", ".join(f"{rate:g}" for rate in rates)
            raise UserError(f"{adapter} diverges at each of --rates, {tries}; lower them")
        best[adapter] = max(ended, key=partial(score, adapter))
    return best


def report(records: Sequence[Record], workdir: Path) -> None:
    """Print the tables, of the best rates and of the trials, and write them and the pictures."""
    records = in_order(records)
    chosen = at_best_rates(records)
    text = "\n\n".join(filter(None, [table(chosen), rates_table(records)]))
    write_text(workdir / "table.md", text + "\n")
    rank_picture(chosen, workdir / "rank")
    pareto_picture(chosen, workdir / "pareto")
    print(f"{text}\n\nin {workdir}: table.md, rank.svg, rank.png, pareto.svg, pareto.png")


def in_order(records: Sequence[Record]) -> list[Record]:
    """By what they are records of."""

    def place(record: Record) -> Cell:
        return cell(record)._replace(rank=cell(record).rank or 0)

    return sorted(records, key=place)


def numbers(option: str, text: str, kind: type) -> list:
    """The numbers of an option, which commas part.

    Raises:
        UserError: one of them is none, or out of range.
    """
    try:
        values = [kind(one) for one in text.split(",")]
    except ValueError:
        values = [-1]
    if min(values) < 0 or (0 in values and option != "--seeds"):
        wanted = "whole numbers" if kind is int else "numbers"
        raise UserError(f"{option}={text}: {wanted} {'of 0 or more' if option == '--seeds' else 'above 0'} are wanted")
    return values
