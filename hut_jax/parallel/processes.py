"""Several processes, on one machine or on many, that train one model together through `jax.distributed`.

All of them run the same code. Each makes its own part of every batch, and moves its own part of every array to its own
devices. All write checkpoints together; otherwise only process 0 prints and writes files.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from hut_jax.core.errors import UserError

HEARTBEAT = 20
"""Seconds without a sign of life from a process after which the others give up."""

_MESSAGE = 4096  # bytes of an error message that is sent to the other processes


class Share(NamedTuple):
    """Consecutive parts of a batch that is split into `parts` equal parts: from `first` to before `last`."""

    first: int
    last: int
    parts: int

    def span(self, size: int) -> tuple[int, int]:
        """The first index of the share on an axis, and the index after its last. The parts divide the axis' size."""
        return self.first * size // self.parts, self.last * size // self.parts


ALL = Share(0, 1, 1)
"""The share of a single process: the whole batch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that several processes may run."""
    group = parser.add_argument_group("several processes", "start the same command in each of them")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the other processes; works under Slurm, under Open MPI and on a TPU pod",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="the address of process 0, where --distributed does not work"
    )
    group.add_argument("--processes", type=int, metavar="N", help="with --coordinator: the number of processes")
    group.add_argument("--process", type=int, metavar="I", help="with --coordinator: the index of this process, from 0")


def join(args: argparse.Namespace) -> None:
    """Join the other processes, if the arguments name any. Call it before anything uses a device.

    Raises:
        UserError: the arguments do not go together, or the others cannot be found.
    """
    given = [args.coordinator, args.processes, args.process]
    if not args.distributed and given == [None] * 3:
        return
    if args.distributed and given != [None] * 3:
        raise UserError(
            "--distributed finds --coordinator, --processes and --process itself; give it alone, or only these three"
        )
    if not args.distributed and None in given:
        raise UserError("--coordinator, --processes and --process go together; one of them is missing")
    if not args.distributed and not 0 <= args.process < args.processes:
        raise UserError(f"--process is {args.process}; it must be at least 0 and below --processes, {args.processes}")
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.processes,
            args.process,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,  # how long a process that fails alone waits for the others
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the other processes cannot be found: {' '.join(str(error).split())[:300]}") from None
    if not is_first():
        _silence()


def _silence() -> None:
    """Discard standard output from here on, that of C++ code included."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def is_first() -> bool:
    """Whether this is process 0, which prints and writes files."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def on_first(function: Callable[[], Any]) -> None:
    """Call the function in process 0 only. If it fails, all processes fail.

    Raises:
        UserError: as the function does.
    """
    message = ""
    if is_first():
        try:
            function()
        except UserError as error:
            message = str(error)
        except OSError as error:  # such as a full disk, which the others would not notice
            message = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if several():
        buffer = np.zeros(_MESSAGE, np.uint8)
        text = message.encode()[:_MESSAGE]
        buffer[: len(text)] = np.frombuffer(text, np.uint8)
        message = bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer))).rstrip(b"\0").decode(errors="ignore")
    if message:
        raise UserError(message)


@contextmanager
def first_alone(what: str) -> Iterator[None]:
    """A block that process 0 runs first, so that the others find on disk what it has prepared."""
    if several() and not is_first():
        multihost_utils.sync_global_devices(what)
    try:
        yield
    finally:
        if several() and is_first():
            multihost_utils.sync_global_devices(what)


def put(array: np.ndarray, sharding: Any) -> jax.Array:
    """Place an array on the devices of this sharding. Every process has all of it and places its own part."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_tree(tree: PyTree[Any], shardings: PyTree[Any]) -> PyTree[jax.Array]:
    """Place the arrays by these shardings, whether each process has them whole or has its part."""

    def one(leaf: Any, sharding: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        return put(leaf if sharding.is_fully_addressable else np.asarray(leaf), sharding)

    return jax.tree.map(one, tree, shardings)


def fetch(tree: PyTree[jax.Array]) -> PyTree[np.ndarray]:
    """The whole of each array, in every process."""

    def one(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(one, tree)
