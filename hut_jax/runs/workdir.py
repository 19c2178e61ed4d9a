"""The folder of a run: `config.json`, `metrics.jsonl`, `checkpoints/`, `adapter/`, `result.json`."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hut_jax.config import RunConfig, flatten_config, from_json
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import PARTIAL

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
LOCK = ".lock"


def check_workdir(workdir: Path, config: RunConfig) -> None:
    """Check that a run with this config may use this folder. Nothing is left behind.

    Raises:
        UserError: the folder cannot be written, another process trains in it, or it holds a run with another config.
            The message names the fields that differ.
    """
    check_writable(workdir)
    if (workdir / LOCK).exists():
        with use_workdir(workdir):
            pass
    if not (workdir / CONFIG).exists():
        return
    there, here = flatten_config(read_config(workdir)), flatten_config(config)
    differing = [
        f"{name} is {here.get(name)!r} and was {there.get(name)!r}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and not name.startswith("mesh.")  # a run may resume on other devices
    ]
    if differing:
        raise UserError(
            f"{workdir} holds a run with another config: {'; '.join(differing)}; "
            "give another --workdir, or that run's own config"
        )


@contextmanager
def use_workdir(workdir: Path) -> Iterator[None]:
    """Make the folder, and lock it for this process.

    The operating system holds the lock, so a killed process leaves none. The lock is on a file, since network file
    systems do not lock folders.

    Raises:
        UserError: another process trains in it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    # filelock's fallback, a soft lock, is off: a killed process would leave it behind.
    lock = FileLock(workdir / LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process trains in {workdir}; wait for it, or give another --workdir") from None
    except OSError as error:
        print(f"note: {workdir} cannot be locked ({error.strerror}): make sure that no other run uses it")
    try:
        # What a killed run had begun to write, here or in a folder such as `adapter`.
        for partial in [*workdir.glob(f".*{PARTIAL}"), *workdir.glob(f"*/.*{PARTIAL}")]:
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        yield
    finally:
        lock.release()


def read_config(workdir: Path) -> RunConfig:
    """The config of the run in this folder.

    Raises:
        UserError: there is no run, or its config is damaged.
    """
    path = workdir / CONFIG
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no run in {workdir}: it has no {CONFIG}; {_runs_beside(workdir)}") from None
    except UserError as error:
        raise UserError(f"{path} is no config of this version: {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def check_writable(folder: Path, name: str = "the workdir") -> None:
    """Check that the folder can be written or made. Nothing is left behind.

    The trial happens in a temporary folder: other runs may be about to make the same parents.

    Raises:
        UserError: it cannot be written.
    """
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryDirectory(dir=there) as trial:
            (Path(trial) / folder.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{name} {folder} cannot be written: {error.strerror}") from None


def _runs_beside(workdir: Path) -> str:
    runs = [str(path.parent) for path in workdir.parent.glob(f"*/{CONFIG}")]
    return nearest(str(workdir), runs) if runs else "give the --workdir of python -m hut_jax.train"
