"""The training loop: steps, evaluations, checkpoints and the log, from a run's newest checkpoint to its end."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from hut_jax.core.errors import Diverged, Interrupted
from hut_jax.data.batching import Batch
from hut_jax.training.checkpoint import Checkpoints
from hut_jax.training.log import MetricsLog, NoLog
from hut_jax.training.preemption import Stopped, stop_on_signal
from hut_jax.training.progress import Progress, ProgressBar
from hut_jax.training.steps import State, Steps
from hut_jax.training.window import Window

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""Passes batches on one by one, and raises `Stopped` before the next batch if a stop was requested."""


@dataclass(frozen=True)
class Plan:
    """How long a run is, and how often it logs, evaluates and saves, in steps.

    Attributes:
        steps: the steps of the whole run.
        accumulate: the batches of a step.
        log_every: steps between two lines of the log.
        eval_every: steps between two evaluations.
        checkpoint_every: steps between two checkpoints.
        eval_on_start: whether to evaluate before the first step, too.
    """

    steps: int
    accumulate: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    eval_on_start: bool = True

    def due(self, step: int, every: int) -> bool:
        """Whether an action is due after this step: it is done every `every` steps, and at the end."""
        return step % every == 0 or step == self.steps


@dataclass
class Fit:
    """The results of a finished run.

    Attributes:
        state: the last state.
        last: the metrics of the last evaluation.
        best: the metrics of the best evaluation, with its step.
        seconds: the time of the whole run.
        steps: the steps of the whole run.
        steps_now: the steps done by this process, after the checkpoint that it restored.
    """

    state: State
    last: dict[str, float]
    best: dict[str, float]
    seconds: float
    steps: int
    steps_now: int


class Trainer:
    """Trains a run.

    Args:
        steps: the compiled training step.
        base: the frozen parameters.
        batches: an iterator over training batches, with `get_state` and `set_state` as in Grain.
        plan: how long the run is, and how often it logs, evaluates and saves.
        evaluate: a function from factors to metrics, which include "loss". It passes its batches through its second
            argument.
        signed_score: the score in an evaluation's metrics, with the sign that makes higher better.
        save_best: called with the factors after each evaluation that is better than all before it.
        learning_rate: the learning rate of a step, by its number from 1.
        checkpoints: the run's checkpoints.
        open_log: called with the steps done and the lines written so far. It opens the log to continue it.
        open_bar: called with the steps done, the steps of the whole run, and those between two evaluations. It opens
            the line on the terminal.
    """

    def __init__(
        self,
        steps: Steps,
        base: PyTree[Array],
        batches: Any,
        plan: Plan,
        *,
        evaluate: Callable[[PyTree[Array], Watch], dict[str, float]],
        signed_score: Callable[[Mapping[str, float]], float],
        save_best: Callable[[PyTree[Array]], None],
        learning_rate: Callable[[int], float],
        checkpoints: Checkpoints,
        open_log: Callable[[int, int], MetricsLog | NoLog],
        open_bar: Callable[[int, int, int], ProgressBar] = ProgressBar,
    ):
        self._steps, self._base, self._batches, self._plan = steps, base, batches, plan
        self._evaluate, self._signed_score, self._save_best = evaluate, signed_score, save_best
        self._learning_rate = learning_rate
        self._checkpoints, self._open_log, self._open_bar = checkpoints, open_log, open_bar
        self._compiled: set[tuple[Any, ...]] = set()

    def fit(self, state: State) -> Fit:
        """Train to the end of the plan, from the newest checkpoint if there is one.

        Args:
            state: the initial state, for a run without a checkpoint.

        Raises:
            Diverged: the loss, its gradient or a factor is not finite.
            Interrupted: Ctrl-C or SIGTERM; everything up to the last whole step is saved.
        """
        self._began = time.perf_counter()
        new = not self._restore(state)
        start = self._step
        self._log = self._open_log(start, self._progress.lines)
        bar = self._open_bar(start, self._plan.steps, self._plan.eval_every)
        with bar as self._bar, stop_on_signal() as self._stopping:
            try:
                if self._progress.owed:
                    self._evaluate_now()
                if new:
                    self._save()
                self._train()
            except Stopped:
                self._save(owed=True)  # the resumed run evaluates first
                raise Interrupted(self._step, self._stopping.signal) from None
            finally:
                self._checkpoints.wait()
                self._log.close()
        return Fit(self._state, self._last, self._best, self._seconds(), self._step, self._step - start)

    def _restore(self, state: State) -> bool:
        """Restore the newest checkpoint; False if there is no checkpoint."""
        restored = self._checkpoints.restore_newest(state)
        if restored is None:
            self._step, self._state, self._progress = 0, state, Progress.at_the_start(owed=self._plan.eval_on_start)
        else:
            self._step, self._state, values = restored
            self._progress = Progress.from_json(values)
            self._batches.set_state(self._progress.data)
        self._last, self._best = self._progress.last, self._progress.best
        self._window = Window(self._progress.window)
        return restored is not None

    def _train(self) -> None:
        plan, window = self._plan, self._window
        window.restart_clock()
        pending = None  # the last step's figures, read only after the next step has started
        while self._step < plan.steps:
            batches = [next(self._batches) for _ in range(plan.accumulate)]
            compiling = self._is_new("step", batches)
            with self._bar.compiling() if compiling else nullcontext():
                self._state, metrics = self._steps.train(self._state, self._base, batches)
            self._step += 1
            if pending is not None:
                window.add(_finite(*pending))
            if compiling:
                window.restart_clock()
            pending = self._step, metrics
            stop = self._stopping.asked_by(self._step)
            logging = plan.due(self._step, plan.log_every)
            evaluating = plan.due(self._step, plan.eval_every)
            saving = plan.due(self._step, plan.checkpoint_every) or stop
            if logging or evaluating or saving:
                window.add(_finite(*pending))
                pending = None
            if logging:
                values = window.close() | {"learning_rate": self._learning_rate(self._step)}
                self._log.write(self._step, "train", values)
                self._bar.show(values)
            self._bar.advance(self._step)
            if evaluating:
                self._evaluate_now()
                window.restart_clock()
            if saving:
                self._save()
            if stop:
                raise Interrupted(self._step, self._stopping.signal)

    def _evaluate_now(self) -> None:
        """Evaluate the factors, and keep them if they are the best so far."""
        with self._bar.evaluating():
            self._last = self._evaluate(self._state.factors, self._watch)
        if not math.isfinite(self._last["loss"]):
            raise Diverged(f"step {self._step}: the validation loss is {self._last['loss']}; {_NOT_FINITE}")
        self._log.write(self._step, "validation", self._last)
        self._bar.show_evaluation(self._step, self._last)
        if not self._best or self._signed_score(self._last) > self._signed_score(self._best):
            self._best = {"step": self._step, **self._last}
            self._save_best(self._state.factors)

    def _watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in self._stopping.until_stopped(batches):
            with self._bar.compiling() if self._is_new("evaluation", [batch]) else nullcontext():
                yield batch

    def _is_new(self, program: str, batches: Sequence[Batch]) -> bool:
        """Whether a batch is the first of its shapes that this process gives to the program, which is then compiled."""
        shapes = {(program, *map(np.shape, jax.tree.leaves(batch))) for batch in batches}
        new = shapes - self._compiled
        self._compiled |= new
        return bool(new)

    def _save(self, *, owed: bool = False) -> None:
        """Begin to save a checkpoint."""
        if not _all_finite(self._state.factors):
            raise Diverged(f"step {self._step}: a factor is not finite; {_NOT_FINITE}")
        progress = Progress(
            data=self._batches.get_state(),
            window=self._window.values,
            lines=self._log.lines,
            last=self._last,
            best=self._best,
            seconds=self._seconds(),
            owed=owed,
        )
        self._checkpoints.save(self._step, self._state, progress.to_json())

    def _seconds(self) -> float:
        return self._progress.seconds + time.perf_counter() - self._began


_NOT_FINITE = (
    "the last checkpoint is kept. In another --workdir try a lower config.train.learning_rate, a longer "
    "config.train.warmup, a config.train.clip, or config.dtype=float32"
)


@jax.jit
def _all_finite(factors: PyTree[Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(factors)]))


def _finite(step: int, metrics: Mapping[str, Array]) -> dict[str, float]:
    """The figures of a step as Python floats.

    Raises:
        Diverged: the loss or the gradient's norm is not finite.
    """
    values = {name: float(value) for name, value in metrics.items()}
    if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
        raise Diverged(
            f"step {step}: the loss is {values['loss']} and its gradient's norm {values['gradient_norm']}; "
            + _NOT_FINITE
        )
    return values
