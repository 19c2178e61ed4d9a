"""Checkpoints of a run, through Orbax: the factors, the optimiser's state and the position in the data.

The base is not saved, since it is frozen.

A checkpoint holds a digest of every array and of its other data. Orbax and its storage notice most damage, but not a
flipped bit in an array. A run resumed from such a checkpoint would end with wrong results and no warning.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree, UInt32

from hut_jax.core.errors import UserError, one_line
from hut_jax.parallel.processes import on_first, several

DAMAGED = "damaged"
_STEP = "step"


class Checkpoints:
    """The checkpoints of one run. They are saved in the background.

    Args:
        folder: the folder of the checkpoints. Damaged ones are moved to `damaged/` beside it.
        keep: the number of newest checkpoints to keep.
        report: called with a line for each damaged checkpoint.
    """

    def __init__(self, folder: Path, keep: int, report: Callable[[str], None] = print):
        self._folder, self._report = folder.absolute(), report
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, step_prefix=_STEP, enable_async_checkpointing=True, cleanup_tmp_directories=True
            ),
        )

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step; None if there is no checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, progress: dict[str, Any]) -> None:
        """Begin to save a checkpoint.

        Args:
            step: the number of steps done.
            state: the arrays. They are copied before this returns, and may be donated afterwards.
            progress: everything else, such as the position in the data, as values that JSON can hold.

        Raises:
            UserError: this checkpoint or the one before it could not be written.
        """
        if step == self.latest:
            return
        digests = {"state": _state_digest(state), "progress": _json_digest(progress)}
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            progress=ocp.args.JsonSave({"step": step, "digests": digests, "progress": progress}),
        )
        self._write(lambda: self._manager.save(step, args=parts))

    def restore_newest(self, like: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Restore the newest whole checkpoint: its step, state and progress; None if there is no checkpoint.

        Damaged checkpoints are moved away and reported.

        Args:
            like: arrays with the structure, dtypes and devices of the state.

        Raises:
            UserError: there are checkpoints, and none of them is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        reasons = {}
        for step in steps:
            try:
                state, progress = self._restore(step, like)
            except MemoryError:
                raise
            except Exception as error:  # Orbax and its storage raise many kinds of errors for a damaged file
                reasons[step] = one_line(error)
                continue
            for damaged, reason in reasons.items():
                moved = self._move_away(damaged)
                self._report(
                    f"note: the checkpoint of step {damaged} is damaged ({reason}) and was moved to {moved}; "
                    f"resuming from step {step}"
                )
            self._manager.reload()
            return step, state, progress
        if reasons:
            each = "; ".join(f"{_STEP}_{step}: {reason}" for step, reason in reasons.items())
            raise UserError(
                f"no checkpoint in {self._folder} is whole ({each}); delete that folder to start over, "
                "or give another --workdir"
            )
        return None

    def wait(self) -> None:
        """Wait until every checkpoint is on disk.

        Raises:
            UserError: a checkpoint could not be written.
        """
        self._write(self._manager.wait_until_finished)

    def close(self) -> None:
        """Wait until every checkpoint is on disk, and stop saving in the background."""
        self._manager.close()

    def _restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        if several():
            # If only one process noticed the damage, the others would wait for it forever.
            on_first(lambda: self._check_alone(step, like))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        parts = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=parts)
        return _checked(step, restored["state"], restored["progress"])

    def _check_alone(self, step: int, like: PyTree) -> None:
        """Read the whole checkpoint in this process alone.

        Raises:
            UserError: the checkpoint is damaged.
        """
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"check_{step}",
        )
        whole = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        handlers = {
            "state": (ocp.StandardCheckpointHandler, ocp.args.StandardRestore(whole)),
            "progress": (ocp.JsonCheckpointHandler, ocp.args.JsonRestore()),
        }
        restored = {}
        try:
            for name, (handler, args) in handlers.items():
                with ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone) as reader:
                    restored[name] = reader.restore(self._folder / f"{_STEP}_{step}" / name, args=args)
            _checked(step, restored["state"], restored["progress"])
        except Exception as error:  # the same many kinds as above
            raise UserError(one_line(error)) from error

    def _move_away(self, step: int) -> Path:
        target = self._folder.parent / DAMAGED / f"{_STEP}_{step}"

        def move() -> None:
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            (self._folder / target.name).rename(target)

        on_first(move)
        return target

    def _write(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except Exception as error:  # Orbax and its storage raise many kinds of errors
            self._manager.reload()
            whole = self.latest
            left = (
                "there is no earlier checkpoint, and the same command starts over"
                if whole is None
                else f"that of step {whole} is whole, and the same command resumes from it"
            )
            raise UserError(
                f"a checkpoint could not be written to {self._folder} ({one_line(error)}); {left}"
            ) from error


def _checked(step: int, state: PyTree, written: dict[str, Any]) -> tuple[PyTree, dict[str, Any]]:
    """The state and progress, after their step and digests are compared with the written ones."""
    if written["step"] != step:
        raise ValueError(f"it was saved as that of step {written['step']}")
    if written["digests"] != {"state": _state_digest(state), "progress": _json_digest(written["progress"])}:
        raise ValueError("its contents are not what was saved")
    return state, written["progress"]


def _state_digest(state: PyTree[Array]) -> list[int]:
    """A digest of each leaf, in the tree's order."""
    # One leaf at a time: each sum runs over all processes, so all processes must compute the sums in the same order.
    return [int(jax.device_get(_digest(leaf))) for leaf in jax.tree.leaves(state)]


@jax.jit  # leaf by leaf: many leaves have few shapes
def _digest(leaf: Array) -> UInt32[Array, ""]:
    """The sum of an array's words, each mixed with its index.

    A sum of integers is the same on any number of devices. The mixing, MurmurHash3's finaliser, is one to one, so a
    change of one word always changes the sum.
    """
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{min(32, 8 * leaf.dtype.itemsize)}")
    words = bits.reshape(-1).astype(jnp.uint32) ^ (jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = (words ^ (words >> shift)) * jnp.uint32(factor)
    return jnp.sum(words ^ (words >> 16), dtype=jnp.uint32)


def _json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
