"""A study: adapters on one base and task, each at the best of its learning rates, with several seeds."""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax

from experiments import report
from experiments.analysis import at_best_learning_rates, to_frame
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

HEAD = "head"
"""Trains only the modules that `config.adapter.also_train` names, such as a new head."""


def add_arguments(parser: argparse.ArgumentParser, workdir: str) -> None:
    """The options of a study; `workdir` is the default of one of them."""
    parser.add_argument("--rates", default="1", help="learning rates to try, as multiples of each adapter's own")
    parser.add_argument("--seeds", default="0", help="one run of each adapter for each of them")
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


def study(config: RunConfig, tuned_as: Mapping[str, str], args: argparse.Namespace) -> None:
    """Run what is missing, print and draw the study's report, and write its JSONL.

    Args:
        config: base, task and everything else.
        tuned_as: for each adapter, such as `hut:rank=8`, the adapter whose best learning rate it takes; often itself.
        args: of `add_arguments`.

    Raises:
        UserError: an adapter or an option is wrong, or a run fails.
    """
    multiples = numbers("--rates", args.rates, float)
    seeds = numbers("--seeds", args.seeds, int, zero=True)
    gpus = words(args.gpus)
    workdir = Path(args.workdir)
    results = Path(args.results) if args.results else workdir / RESULTS
    check_writable(workdir)
    check_writable(results.parent, "the folder of --results,")
    base, platform = elsewhere(check, configs_of(config, [*tuned_as], multiples, seeds), args.text)
    if args.results and results.exists():
        restore(results, workdir)
    jobs = default_jobs(gpus, platform) if args.jobs is None else args.jobs
    run = partial(run_missing, workdir=workdir, jobs=jobs, gpus=gpus, text=args.text, base=base)
    tuned = dict.fromkeys(tuned_as.values())
    best, tried = dict.fromkeys(tuned, multiples[0]), dict[str, Record]()
    if len(multiples) > 1:
        # Runs that begin together have different adapters: each adapter's later runs find what its first compiled.
        trials = dict(make_run(config, adapter, multiple, seeds[0]) for multiple in multiples for adapter in tuned)
        tried = run(trials)
        best = best_multiples(tuned, multiples, seeds[0], tried)
    runs = dict(make_run(config, one, best[other], seed) for seed in seeds for one, other in tuned_as.items())
    frame = to_frame((tried | run(runs)).values())
    report.write(frame, report.make(frame), workdir)
    write_study(results, read_study(workdir))
    print(f"all runs: {results}")


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


def check(configs: Sequence[RunConfig], text: str) -> tuple[str, str]:
    """Check, before any run, that base, data and text can be read, and that each adapter fits.

    Args:
        configs: they differ only in their adapters.
        text: measures forgetting; "" measures none.

    Returns:
        The base's fingerprint ("" if each seed draws its own base), and the platform that JAX uses.

    Raises:
        UserError: a run would fail at its start, or forgetting could not be measured.
    """
    run, _ = prepare(configs[0])
    for config in configs[1:]:
        config.adapter.make_adapter().sites(run.shapes)
    if text:
        held_out(run.task, run.tokenizer, text)
    base = fingerprint(run.load_base()) if configs[0].init == "pretrained" else ""
    return base, jax.default_backend()


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


def best_multiples(
    adapters: Iterable[str], multiples: Sequence[float], seed: int, tried: Mapping[str, Record]
) -> dict[str, float]:
    """The best learning rate of each adapter, as a multiple of its own: that of the run with the best score.

    Raises:
        UserError: an adapter diverged at all of them.
    """
    best = {}
    for adapter in adapters:
        named = {run_name(adapter, multiple, seed): multiple for multiple in multiples}
        ended = [tried[name] for name in named if name in tried]
        if not ended:
            tries = ", ".join(f"{multiple:g}" for multiple in multiples)
            raise UserError(f"{adapter} diverges at each of --rates, {tries}; lower them")
        best[adapter] = named[at_best_learning_rates(to_frame(ended))["name"].iloc[0]]
    return best
