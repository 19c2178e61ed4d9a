"""Run many trainings, several at a time, and only those that have not run."""

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from experiments.record import RECORD, Record, fields_of, make_record, read_record, write_record
from hut_jax.config import default_config, resolve, set_transform
from hut_jax.errors import Diverged, UserError

LOG = "log.txt"
CHANGES_NOTHING = (
    "data.dir",
    "data.cache",
    "data.text",
    "data.length_multiple",
    "data.slot_multiple",
    "mesh.",
    "checkpoint.",
    "train.remat",
    "train.attention",
    "train.scan_layers",
)
"""Fields of the config that say where things are, and how to compute what comes out the same, dropout's draws aside."""


def run_missing(runs: Mapping[str, ConfigDict], workdir: Path, *, jobs: int = 1, text: str = "") -> dict[str, Record]:
    """Train each config in the folder of its name under `workdir`, unless its record stands there.

    What was begun goes on from its last checkpoint. A record that cannot be read is named, and made again. What a run
    prints is in its `log.txt`. Each has a process of its own. One that diverges is named, and has no record.

    Args:
        runs: name to config.
        workdir: where all of them are kept.
        jobs: how many run at a time; they share out the processor's cores.
        text: to measure forgetting on: see `make_record`.

    Returns:
        Name to record, of all that did not diverge.

    Raises:
        UserError: a record is of another config; or as the first run that fails, when those that had begun have ended.
    """
    missing = {name: config for name, config in runs.items() if not _stands(workdir / name, config)}
    diverged = set()
    if missing:
        # Processes that are started, not forked: JAX has threads.
        context = get_context("spawn")
        cores = sorted(os.sched_getaffinity(0))
        shares = context.Queue()
        for job in range(jobs):
            shares.put(set(cores[job::jobs]) or set(cores))
        pool = ProcessPoolExecutor(jobs, context, initializer=_remember, initargs=(shares,), max_tasks_per_child=1)
        with pool:
            futures = {pool.submit(_run, name, config, workdir, text): name for name, config in missing.items()}
            try:
                for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
                    name = futures[future]
                    try:
                        future.result()
                        tqdm.write(f"done: {name}")
                    except Diverged as error:
                        diverged.add(name)
                        tqdm.write(f"note: {name} diverged and is left out: {error}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return {name: read_record(workdir / name) for name in runs if name not in diverged}


def _stands(folder: Path, config: ConfigDict) -> bool:
    if not (folder / RECORD).exists():
        return False
    try:
        record = read_record(folder)
    except UserError as error:
        print(f"note: {error}; it is made again")
        return False
    # A field that the record's version did not have is at its default there.
    known = default_config()
    set_transform(known, config.adapter.name)
    was = fields_of(known) | record.config
    now = fields_of(resolve(config))
    differing = [
        f"{field} is {now[field]!r} and was {was[field]!r}"
        for field in sorted(now)
        if now[field] != was[field] and not field.startswith(CHANGES_NOTHING)
    ]
    if differing:
        raise UserError(f"{folder} holds a run with another config: {'; '.join(differing)}; give another --workdir")
    return True


_shares: "Queue[set[int]]"


def _remember(shares: "Queue[set[int]]") -> None:
    global _shares
    _shares = shares


def _run(name: str, config: ConfigDict, workdir: Path, text: str) -> None:
    cores = _shares.get()
    os.sched_setaffinity(0, cores)
    try:
        from hut_jax.compilation import keep_compiled  # only now: JAX counts the cores when it starts
        from hut_jax.train import train

        folder = workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            keep_compiled()
            write_record(folder, make_record(name, config, folder, train(config, folder), text))
    finally:
        _shares.put(cores)
