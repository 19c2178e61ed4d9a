"""A run's figures as they come: `metrics.jsonl`, one object a line, and TensorBoard's event files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """Appends to the log of a run, which goes on from `step` without a gap or a repeated line."""

    def __init__(self, workdir: Path, step: int):
        # Here, not at the top: the import takes a while, and reading a config or --help needs none of it.
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        _drop_after(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """One line, and one TensorBoard scalar for each value."""
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def read_metrics(workdir: Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _drop_after(path: Path, step: int) -> None:
    """Take out lines past `step`, and a last one that a kill cut short: the run will write them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
