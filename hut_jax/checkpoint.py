"""Checkpoints of a run, through Orbax: what trains, the optimiser's state and the position in the data.

The base is never in them: it is frozen, and its files are where they were.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from hut_jax.errors import UserError, one_line


class Checkpoints:
    """The checkpoints of one run, the newest few of them kept. Saving happens in the background."""

    def __init__(self, folder: Path, keep: int):
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, step_prefix="step", enable_async_checkpointing=True),
        )

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, progress: dict[str, Any]) -> None:
        """Begin to save.

        Args:
            step: the updates done.
            state: arrays; they are copied before this returns, and may be donated afterwards.
            progress: what is no array and fits in JSON, such as the position in the data.
        """
        if step == self.latest:
            return
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress))
        )

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """The state, with the structure, dtypes and devices of `like`, and the progress.

        Raises:
            UserError: the checkpoint is damaged.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        parts = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=parts)
        except Exception as error:  # Orbax and its stores raise many kinds where a file is damaged
            folder = self._manager.directory / f"step_{step}"
            reason = one_line(error)
            raise UserError(
                f"the checkpoint {folder} is damaged ({reason}); delete that folder to go on from the one before it"
            ) from error
        return restored["state"], restored["progress"]

    def wait(self) -> None:
        """Return when what was begun is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and release what saving in the background holds."""
        self._manager.close()
