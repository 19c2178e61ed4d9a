"""A run's figures as they come: `metrics.jsonl`, one object a line, and TensorBoard's event files."""

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from hut_jax.core.files import write_text


class MetricsLog:
    """Appends to the log of a run, which goes on without a gap or a repeated line.

    Args:
        workdir: of the run.
        step: the updates done.
        lines: of `metrics.jsonl` that were written by then. What a killed process wrote after them is taken out: the
            run will write it again.
    """

    def __init__(self, workdir: Path, step: int, lines: int):
        path = workdir / "metrics.jsonl"
        self.lines = _keep(path, lines)
        self._file = path.open("a", encoding="utf-8")
        self._board = _summary_writer()(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line, and one TensorBoard scalar for each value."""
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._file.flush()
        self.lines += 1
        if self._board_is_written():
            for name, value in values.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        if self._board_is_written():
            with contextlib.suppress(OSError):  # what stopped the run is told; this is not to be told instead
                self._board.close()

    def _board_is_written(self) -> bool:
        # Its events are written by a thread, which a full disk ends; its queue then fills up, and who adds to it waits.
        return self._board.file_writer.event_writer._worker.is_alive()


def _summary_writer() -> type:
    # Here, not at the top: the import takes a while, and reading a config or --help needs none of it. It takes seconds
    # where PyTorch is installed, which tensorboardX imports for nothing that is used here: so it is hidden meanwhile.
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
    """In a process that leaves the log to another."""

    lines = 0

    def __init__(self, step: int, lines: int):
        pass

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(workdir: Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _keep(path: Path, lines: int) -> int:
    """Take out what comes after so many lines; returns how many there are."""
    if not path.exists():
        return 0
    kept = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines] if line.endswith("\n")]
    write_text(path, "".join(kept))
    return len(kept)
