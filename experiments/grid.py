"""A grid of training runs, several at a time; a run that has a record is not run again."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.record import RECORD, Record, fields_of, make_record, read_record, write_record
from hut_jax.config import RunConfig, default_config, set_transform
from hut_jax.core.compilation import keep_compiled
from hut_jax.core.errors import Diverged, UserError
from hut_jax.runs.workdir import check_workdir
from hut_jax.train import train

LOG = "log.txt"
HUGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
"""For processes that begin: a step on a CPU takes its memory anew, and the kernel clears few large pages faster."""
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
"""Fields that name files or change only how a result is computed; dropout's random numbers may change, too."""


class Slot(NamedTuple):
    """What a job has of the machine: cores of the processor, and one GPU; "" for all GPUs."""

    cores: frozenset[int]
    gpu: str


def run_missing(
    runs: Mapping[str, RunConfig],
    workdir: Path,
    *,
    jobs: int = 1,
    gpus: Sequence[str] = (),
    text: str = "",
    base: str = "",
    measured: bool = True,
) -> dict[str, Record]:
    """Train each config in the folder of its name under `workdir`, unless its record is there.

    A run that was stopped resumes from its last checkpoint. A record that cannot be read is named and made again. Each
    run prints to its `log.txt`. A run that diverges is named and has no record.

    Args:
        runs: name to config.
        workdir: of all runs.
        jobs: how many run at a time; they share the processor's cores.
        gpus: names of GPUs, as in CUDA_VISIBLE_DEVICES; each job gets one of them. Default: each job takes all.
        text: measures forgetting: see `make_record`.
        base: the fingerprint of the base that all runs have; "" leaves it unchecked.
        measured: whether each run has a process of its own, and so its own peak of memory. Without that, each job runs
            all of its runs in one process, and starts once.

    Returns:
        The record of each run that did not diverge, by the run's name.

    Raises:
        UserError: a record or an unfinished run has another config, base or text. A run's own error is raised when
            all runs that had begun have ended.
    """
    if jobs < 1:
        raise UserError(f"--jobs={jobs}: at least one run at a time is wanted")
    missing = {name: config for name, config in runs.items() if not _stands(workdir / name, config, text, base)}
    for name, config in missing.items():
        check_workdir(workdir / name, config)
    diverged = set()
    if missing:
        # Processes that are started, not forked: JAX has threads.
        context = get_context("spawn")
        os.environ.setdefault(*HUGE_PAGES)
        queue = context.Queue()
        for slot in slots(jobs, sorted(os.sched_getaffinity(0)), gpus):
            queue.put(slot)
        pool = ProcessPoolExecutor(
            jobs, context, initializer=_remember, initargs=(queue,), max_tasks_per_child=1 if measured else None
        )
        with _killed_told(), pool:
            run = partial(_run, workdir=workdir, text=text, measured=measured)
            futures = {pool.submit(run, name, config): name for name, config in missing.items()}
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


def _stands(folder: Path, config: RunConfig, text: str, base: str) -> bool:
    if not (folder / RECORD).exists():
        return False
    try:
        record = read_record(folder)
    except UserError as error:
        print(f"note: {error}; it is made again")
        return False
    # If the record's version did not have a field, the run had the field's default.
    known = default_config(config.task)
    set_transform(known, config.adapter.name)
    was = fields_of(known) | record.config
    now = fields_of(config)
    differing = [
        f"{field} is {now[field]!r} and was {was[field]!r}"
        for field in sorted(now)
        if now[field] != was[field] and not field.startswith(CHANGES_NOTHING)
    ]
    if differing:
        raise UserError(f"{folder} holds a run with another config: {'; '.join(differing)}; give another --workdir")
    if base not in ("", record.base["fingerprint"]):
        raise UserError(f"{folder} holds a run of another base, with other weights; give another --workdir")
    measured = record.forgetting["text"] if record.forgetting else "no text"
    if text and measured != Path(text).name:
        raise UserError(f"{folder} holds a run whose forgetting was measured on {measured}; give another --workdir")
    return True


def slots(jobs: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Slot]:
    """Each job's slot. If there are more jobs than cores or GPUs, several jobs have the same."""
    return [
        Slot(frozenset(cores[job::jobs]) or frozenset(cores), gpus[job % len(gpus)] if gpus else "")
        for job in range(jobs)
    ]


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Call the function in a process of its own: a process that uses JAX holds a part of a GPU until it ends."""
    with _killed_told(), ProcessPoolExecutor(1, get_context("spawn"), initializer=_spare_memory) as pool:
        return pool.submit(function, *args).result()


@contextlib.contextmanager
def _killed_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise UserError(
            "a process was killed, perhaps for lack of memory; the same command resumes, if need be with fewer --jobs"
        ) from None


_slots: "Queue[Slot]"
_slot: Slot | None = None


def _remember(slots: "Queue[Slot]") -> None:
    global _slots
    _slots = slots


def _take(slot: Slot) -> None:
    os.sched_setaffinity(0, slot.cores)
    if slot.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
    _spare_memory()


def _spare_memory() -> None:
    """Let JAX take a GPU's memory as it needs it, and not most of it at once: other runs may share the GPU."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _run(name: str, config: RunConfig, *, workdir: Path, text: str, measured: bool) -> None:
    global _slot
    if _slot is None:
        _slot = _slots.get()
        _take(_slot)  # before JAX starts: it looks at the machine once
    try:
        folder = workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            keep_compiled()
            write_record(folder, make_record(name, config, folder, train(config, folder), text))
    finally:
        if measured:  # this process ends, and another takes the slot
            _slots.put(_slot)
