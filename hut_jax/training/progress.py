"""The progress of a run: its record in a checkpoint, and the line on the terminal."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from hut_jax.parallel.processes import is_first
from hut_jax.training.earlier_names import current_names
from hut_jax.training.log import show


@dataclasses.dataclass(frozen=True)
class Progress:
    """The part of a checkpoint beside the state, saved as JSON.

    Attributes:
        data: the position in the training data.
        window: the figures of the steps since the last line of the log.
        lines: the number of lines in the log.
        last: the metrics of the last evaluation.
        best: the metrics of the best evaluation, with its step.
        seconds: the time spent on the run so far, without the time between its processes.
        owed: whether the evaluation at this step has yet to be done.
    """

    data: Any
    window: list[dict[str, float]]
    lines: int
    last: dict[str, float]
    best: dict[str, float]
    seconds: float
    owed: bool

    @classmethod
    def at_the_start(cls) -> "Progress":
        """The progress of a run without a checkpoint."""
        return cls(data=None, window=[], lines=0, last={}, best={}, seconds=0.0, owed=True)

    def to_json(self) -> dict[str, Any]:
        """The values for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_json`. It reads earlier versions too."""
        return cls(**current_names(values))


class ProgressBar:
    """One line on the terminal: steps done, time left, loss, and tokens per second without padding."""

    def __init__(self, start: int, steps: int):
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not is_first(),
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, step: int) -> None:
        """Move on to this step."""
        self._bar.update(step - self._bar.n)

    def show(self, values: Mapping[str, float]) -> None:
        """Show the figures of a line of the log."""
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s")

    def show_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the metrics of an evaluation, above the line."""
        if is_first():
            self._bar.write(f"step {step}: validation {show(metrics)}")
