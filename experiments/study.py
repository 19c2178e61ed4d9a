"""A study: adapters on one base and task, each at the best of its learning rates, with several seeds."""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from experiments import report
from experiments.analysis import to_frame
from experiments.choosing import FIRST, HOLDOUT, MOST, NEVER, SEED, as_trial, choose
from experiments.forgetting import held_out
from experiments.grid import elsewhere, run_missing
from experiments.options import numbers, words
from experiments.record import RECORD, Record, run_name, write_record
from experiments.results import RESULTS, read_study, write_study
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.config import RunConfig, to_json, with_fields
from hut_jax.core.errors import UserError
from hut_jax.runs.adapter_names import with_adapter
from hut_jax.runs.run import prepare
from hut_jax.runs.workdir import check_writable
from hut_jax.train import make_plan

HEAD = "head"
"""Trains only the modules that `config.adapter.also_train` names, such as a new head."""


def add_arguments(parser: argparse.ArgumentParser, workdir: str) -> None:
    """The options of a study; `workdir` is the default of one of them."""
    first = ", ".join(f"{multiple:g}" for multiple in FIRST)
    parser.add_argument(
        "--rates",
        default="",
        help="learning rates, as multiples of each method's own: one is taken as it is, of several each adapter takes "
        f"its best. Default: {first}, and further until the best is inside",
    )
    parser.add_argument("--seeds", default="0,1,2", help="one run of each adapter for each of them")
    parser.add_argument(
        "--jobs",
        type=int,
        help="runs at a time; they divide the cores. Default: one for each GPU of --gpus, else two on a processor",
    )
    parser.add_argument("--gpus", default="", help="such as 0,1,2,3: each run takes one; default: each takes all")
    parser.add_argument("--text", default="", help="a text to measure the forgetting of a GPT-2 on")
    parser.add_argument("--workdir", default=workdir, metavar="FOLDER", help="where the runs are kept")
    parser.add_argument(
        "--results",
        metavar="FILE",
        help=f"the study's JSONL; what it already holds is not run again. Default: {RESULTS} in the workdir",
    )


def study(config: RunConfig, adapters: Sequence[str], args: argparse.Namespace) -> None:
    """Choose learning rates, run what is missing, print and draw the study's report, and write its JSONL.

    Args:
        config: base, task and everything else.
        adapters: such as `hut:rank=8`.
        args: of `add_arguments`.

    Raises:
        UserError: an adapter or an option is wrong, or a run fails.
    """
    multiples = numbers("--rates", args.rates, float) if args.rates else []
    seeds = numbers("--seeds", args.seeds, int, zero=True)
    if SEED in seeds:
        raise UserError(f"--seeds={args.seeds}: seed {SEED} chooses the learning rates; leave it out")
    gpus = words(args.gpus)
    workdir = Path(args.workdir)
    results = Path(args.results) if args.results else workdir / RESULTS
    check_writable(workdir)
    check_writable(results.parent, "the folder of --results,")
    if not multiples:  # given by hand, they stand for a study that may be older than this rule
        config = with_fields(config, {"eval.every": NEVER})
    trials = len(multiples) != 1
    found = elsewhere(check, configs_of(config, adapters, multiples or FIRST, seeds), args.text, trials)
    if args.results and results.exists():
        restore(results, workdir)
    print(plan(adapters, multiples, seeds, found.steps), flush=True)
    jobs = default_jobs(gpus, found.platform) if args.jobs is None else args.jobs
    run = partial(run_missing, workdir=workdir, jobs=jobs, gpus=gpus, text=args.text, base=found.base)
    run_trials = partial(run, measured=False)
    best, tried = dict.fromkeys(adapters, multiples[0] if multiples else 1.0), dict[str, Record]()
    if trials:
        best, tried = choose(
            adapters, multiples, lambda wanted: run_trials(dict(make_trial(config, *one) for one in wanted))
        )
        chosen = ", ".join(f"{adapter} {multiple:g}" for adapter, multiple in best.items())
        print(f"the best learning rates, as multiples of the methods' own: {chosen}", flush=True)
    runs = dict(make_run(config, adapter, best[adapter], seed) for seed in seeds for adapter in adapters)
    frame = to_frame((tried | run(runs)).values())
    report.write(frame, report.make(frame), workdir)
    write_study(results, read_study(workdir))
    print(f"all runs: {results}")


def plan(adapters: Sequence[str], multiples: Sequence[float], seeds: Sequence[int], steps: Sequence[int]) -> str:
    """What a study will run, in words.

    Args:
        adapters: their names.
        multiples: the learning rates that were given by hand.
        seeds: of the runs that are reported.
        steps: those of a run that chooses, and of a run that is reported.
    """
    count, short, whole = len(adapters), *steps
    lines = []
    tries = multiples or FIRST
    if len(tries) > 1:
        shown = ", ".join(f"{multiple:g}" for multiple in tries)
        further = "" if multiples else f", and further until its best is inside ({MOST} at most)"
        lines.append(
            f"Learning rates: each of {count} adapters tries {shown} times its method's own{further}: "
            f"{count * len(tries)} runs of {short:,} steps{'' if multiples else ' to begin with'}. They train on "
            f"{100 * (1 - HOLDOUT):.0f} % of the training data and are scored on the rest."
        )
    else:
        lines.append(f"Learning rates: {multiples[0]:g} times each method's own, given by hand.")
    each = ", ".join(map(str, seeds))
    lines.append(f"Then, at the best: {count * len(seeds)} runs of {whole:,} steps, seeds {each}.")
    work = count * (len(seeds) + (len(tries) * short / whole if len(tries) > 1 else 0))
    lines.append(
        f"In all this takes about as long as {work:.0f} runs of {whole:,} steps. "
        "Runs that have ended are not run again. A line shows the time left."
    )
    return "\n".join(lines)


def restore(results: Path, workdir: Path) -> None:
    """Write the record of each run of the JSONL to the run's folder, unless the folder has one."""
    for record in read_study(results):
        folder = workdir / record.name
        if not (folder / RECORD).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_record(folder, record)


def configs_of(
    config: RunConfig, adapters: Sequence[str], multiples: Sequence[float], seeds: Sequence[int]
) -> list[RunConfig]:
    """One config for each adapter, after a check of all configs that the adapter may run with.

    Raises:
        UserError: a config is wrong, or two names are of the same adapter.
    """
    named: dict[str, str] = {}
    configs = []
    for adapter in adapters:
        first, *_ = [make_run(config, adapter, multiple, seed)[1] for multiple in multiples for seed in seeds]
        other = named.setdefault(to_json(first), adapter)
        if other != adapter:
            raise UserError(f"{other} and {adapter} are the same adapter; name it once")
        configs.append(first)
    return configs


def default_jobs(gpus: Sequence[str], platform: str) -> int:
    """Runs at a time: one for each named GPU; two on a CPU, because a run starts and compiles on one core."""
    return len(gpus) or (min(2, len(os.sched_getaffinity(0))) if platform == "cpu" else 1)


class Found(NamedTuple):
    """What a check has found.

    Attributes:
        base: its fingerprint; "" if each seed draws its own base.
        platform: the one that JAX uses.
        steps: those of a run that chooses a learning rate, and of a run that is reported.
    """

    base: str
    platform: str
    steps: tuple[int, int]


def check(configs: Sequence[RunConfig], text: str, trials: bool = True) -> Found:
    """Check, before any run, that base, data and text can be read, and that each adapter fits.

    Args:
        configs: they differ only in their adapters.
        text: measures forgetting; "" measures none.
        trials: whether some runs choose learning rates.

    Raises:
        UserError: a run would fail at its start, or forgetting could not be measured.
    """
    run, data = prepare(configs[0])
    for config in configs[1:]:
        config.adapter.make_adapter().sites(run.shapes)
    if text:
        held_out(run.task, run.tokenizer, text)
    base = fingerprint(run.load_base()) if configs[0].init == "pretrained" else ""
    trial = as_trial(configs[0])
    short = len(data.hold_out(HOLDOUT).train) if trials else len(data.train)
    steps = make_plan(trial, short).steps, make_plan(configs[0], len(data.train)).steps
    return Found(base, jax.default_backend(), steps)


def make_trial(config: RunConfig, adapter: str, multiple: float) -> tuple[str, RunConfig]:
    """The name and the config of a run that chooses a learning rate; arguments and errors are those of `make_run`."""
    name, own = make_run(config, adapter, multiple, SEED)
    return name, as_trial(own)


def make_run(config: RunConfig, adapter: str, multiple: float, seed: int) -> tuple[str, RunConfig]:
    """The name and the config of a run.

    Args:
        config: of the study.
        adapter: such as hut:rank=8, or `HEAD`.
        multiple: the learning rate over the adapter's own.
        seed: of the run.

    Raises:
        UserError: there is no such adapter, or it does not fit the config.
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
    own = with_fields(own, {"train.learning_rate": multiple * usual, "seed": seed})
    return run_name(adapter, multiple, seed), own
