"""The progress of a run: its record in a checkpoint, and the line on the terminal."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    def at_the_start(cls, *, owed: bool) -> "Progress":
        """The progress of a run without a checkpoint."""
        return cls(data=None, window=[], lines=0, last={}, best={}, seconds=0.0, owed=owed)

    def to_json(self) -> dict[str, Any]:
        """The values for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_json`. It reads earlier versions too."""
        return cls(**current_names(values))


class _Line(tqdm):
    """The line of tqdm, with a pace, a time left and an activity that it is told."""

    pace: float | None = None  # seconds per step
    left: float | None = None  # seconds
    activity = ""  # takes the place of the figures

    @property
    def format_dict(self) -> dict[str, Any]:
        shown = super().format_dict
        left = "?" if self.left is None else self.format_interval(self.left)
        rate = 1 / self.pace if self.pace else 0.0  # with None tqdm takes the steps over the time, compiling included
        return shown | {"rate": rate, "left": left, "postfix": self.activity or shown["postfix"]}


class ProgressBar:
    """One line on the terminal: steps done, time left, loss, and tokens per second without padding.

    The time left is that of the steps to come, at the mean pace of this process, and of the evaluations to come, each
    as long as the last one. Compiling is left out, and so is what comes before the first step.
    """

    def __init__(self, start: int, steps: int, eval_every: int):
        self._steps, self._eval_every = steps, eval_every
        self._first: tuple[int, float] | None = None  # the first step of this process, and when it had begun
        self._apart = 0.0  # the time that compiling and evaluations took since
        self._evaluation = 0.0  # the time of the last evaluation
        self._bar = _Line(
            total=steps,
            initial=start,
            unit="step",
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not is_first(),
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, step: int) -> None:
        """Move on to this step, which has begun; those before it have ended."""
        now = time.perf_counter()
        if self._first is None:
            self._first, self._apart = (step, now), 0.0
        else:
            first, began = self._first
            pace = (now - began - self._apart) / (step - first)
            evaluations = min(-(-self._steps // self._eval_every) - step // self._eval_every, self._steps - step)
            self._bar.pace = pace
            self._bar.left = (self._steps - step) * pace + evaluations * self._evaluation
        self._bar.update(step - self._bar.n)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Say so, and leave the time out of the time left."""
        began = time.perf_counter()
        with self._doing("compiling ..."):
            yield
        self._apart += time.perf_counter() - began

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Say so, and take the time for that of each evaluation to come."""
        began, apart = time.perf_counter(), self._apart
        with self._doing("validating ..."):
            yield
        seconds, compiling = time.perf_counter() - began, self._apart - apart
        self._evaluation = seconds - compiling
        self._apart = apart + seconds

    @contextmanager
    def _doing(self, activity: str) -> Iterator[None]:
        before, self._bar.activity = self._bar.activity, activity
        self._bar.refresh()
        try:
            yield
        finally:
            self._bar.activity = before
            self._bar.refresh()

    def show(self, values: Mapping[str, float]) -> None:
        """Show the figures of a line of the log."""
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s")

    def show_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the metrics of an evaluation, above the line."""
        if is_first():
            self._bar.write(f"step {step}: validation {show(metrics)}")
