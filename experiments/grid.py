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

from hut_jax.workdir import RESULT

LOG = "log.txt"


def run_missing(runs: Mapping[str, ConfigDict], workdir: Path, *, jobs: int = 1) -> None:
    """Train each config in the folder of its name under `workdir`, unless its `result.json` is there.

    What was begun goes on from its last checkpoint. What a run prints is in its `log.txt`.

    Args:
        runs: name to config.
        workdir: where all of them are kept.
        jobs: how many run at a time; they share out the processor's cores.

    Raises:
        UserError: as the first run that fails; the others that had begun end first.
    """
    missing = {name: config for name, config in runs.items() if not (workdir / name / RESULT).exists()}
    if not missing:
        return
    # Processes that are started, not forked: JAX has threads.
    context = get_context("spawn")
    cores = sorted(os.sched_getaffinity(0))
    shares = context.Queue()
    for job in range(jobs):
        shares.put(set(cores[job::jobs]) or set(cores))
    with ProcessPoolExecutor(jobs, context, initializer=_take_cores, initargs=(shares,)) as pool:
        futures = {pool.submit(_run, config, workdir / name): name for name, config in missing.items()}
        try:
            for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
                future.result()
                tqdm.write(f"done: {futures[future]}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _take_cores(shares: "Queue[set[int]]") -> None:
    os.sched_setaffinity(0, shares.get())


def _run(config: ConfigDict, workdir: Path) -> None:
    from hut_jax.train import train  # only now: JAX counts the cores when it starts

    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOG, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        train(config, workdir)
