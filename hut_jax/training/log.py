"""The log of a run: `metrics.jsonl`, one object a line, and TensorBoard's event files."""

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hut_jax.core.files import write_text
from hut_jax.training.earlier_names import current_names


class MetricsLog:
    """Appends to the log of a run. A resumed run leaves no gap and repeats no line.

    Args:
        workdir: the folder of the run.
        step: the number of steps done.
        lines: the lines of `metrics.jsonl` written up to that step. Lines that a killed process wrote later are
            removed: the run will write them again.
    """

    def __init__(self, workdir: Path, step: int, lines: int):
        path = workdir / "metrics.jsonl"
        self.lines = _keep(path, lines)
        self._file = path.open("a", encoding="utf-8")
        self._board = _summary_writer()(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write one line, and one TensorBoard scalar for each value."""
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._file.flush()
        self.lines += 1
        if self._board_is_written():
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        if self._board_is_written():
            with contextlib.suppress(OSError):  # this error must not hide the one that stopped the run
                self._board.close()

    def _board_is_written(self) -> bool:
        # A thread writes the events, and a full disk ends it. The queue then fills up, and adding to it would
        # wait forever.
        return self._board.file_writer.event_writer._worker.is_alive()


def _summary_writer() -> type:
    # Imported late: the import takes a while, and --help does not need it. If PyTorch is installed, tensorboardX
    # imports it too. That takes seconds and is of no use here, so PyTorch is hidden during the import.
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


class NoLog:
    """The log of a process that does not write one."""

    lines = 0

    def __init__(self, step: int, lines: int):
        pass

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`. Names of earlier versions are replaced by today's."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [current_names(json.loads(line)) for line in lines]


def append_metrics(workdir: Path, step: int, split: str, values: Mapping[str, Any]) -> None:
    """Append a line to the `metrics.jsonl` of a run that has ended. If the run is started again, the line goes."""
    with (workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "split": split, **values}) + "\n")


def show(metrics: Mapping[str, float]) -> str:
    """Format metrics as one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _keep(path: Path, lines: int) -> int:
    """Remove everything after the first `lines` lines, and return the number of lines left."""
    if not path.exists():
        return 0
    kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines] if line.endswith("\n")]
    write_text(path, "".join(kept))
    return len(kept)
