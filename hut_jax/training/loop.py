"""The training loop: steps, evaluations, checkpoints and the log, from wherever a run stands to its end."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from hut_jax.core.errors import Diverged, Interrupted
from hut_jax.parallel.processes import is_first
from hut_jax.training.checkpoint import Checkpoints
from hut_jax.training.log import MetricsLog, NoLog
from hut_jax.training.preemption import Stopped, stop_on_signal
from hut_jax.training.steps import Batch, State, Steps

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""The batches as they are, or an exception between two of them."""


@dataclass(frozen=True)
class Plan:
    """How long a run is, and what it does how often, counted in updates; and the batches that make an update."""

    steps: int
    accumulate: int
    log_every: int
    eval_every: int
    checkpoint_every: int


@dataclass
class Fit:
    """What a finished run leaves: the last state, its evaluation, the best one with its step, and what it all took.

    `updates` are those that were made this time, after what was restored.
    """

    state: State
    last: dict[str, float]
    best: dict[str, float]
    seconds: float
    updates: int


def fit(
    steps: Steps,
    state: State,
    base: PyTree,
    batches: Any,
    *,
    plan: Plan,
    evaluate: Callable[[PyTree[Array], Watch], dict[str, float]],
    score: Callable[[Mapping[str, float]], float],
    on_best: Callable[[PyTree[Array], dict[str, float]], None],
    checkpoints: Checkpoints,
    log: Callable[[int, int], MetricsLog | NoLog],
) -> Fit:
    """Train to the end of the plan, from the newest checkpoint if there is one.

    Args:
        steps: the compiled update.
        state: the state to begin with, where there is no checkpoint.
        base: the frozen parameters.
        batches: an iterator over training batches with `get_state` and `set_state`, as Grain's have.
        plan: how long, and what how often.
        evaluate: from factors to metrics; "loss" is among them. The batches go through its second argument, so that
            a stop that is asked for meanwhile need not wait.
        score: of an evaluation's metrics, the more the better.
        on_best: called with the factors and metrics of each evaluation that is better than all before it.
        checkpoints: where to save, and to go on from.
        log: from the updates done, and the lines written by then, to the log that goes on from there.

    Raises:
        Diverged: the loss, its gradient or a factor is not finite.
        Interrupted: Ctrl-C or SIGTERM; everything up to the last whole update is saved.
    """
    last: dict[str, float] = {}
    best: dict[str, float] = {}
    window = _Window([])
    began, earlier = time.perf_counter(), 0.0
    start, lines, owed = 0, 0, True  # owed: the evaluation at `start` is still to be done
    restored = checkpoints.restore_newest(state)
    if restored is not None:
        start, state, progress = restored
        batches.set_state(progress["data"])
        last, best, earlier = progress["last"], progress["best"], progress["seconds"]
        lines, owed = progress["lines"], progress["owed"]
        window = _Window(progress["window"])
    log_file = log(start, lines)

    def seconds() -> float:
        return earlier + time.perf_counter() - began

    def save(step: int, *, owed: bool = False) -> None:
        if not _all_finite(state.factors):
            raise Diverged(f"update {step}: a factor is not finite; {_NOT_FINITE}")
        progress = {
            "data": batches.get_state(),
            "window": window.values,
            "lines": log_file.lines,
            "last": last,
            "best": best,
            "seconds": seconds(),
            "owed": owed,
        }
        checkpoints.save(step, state, progress)

    def evaluate_at(step: int) -> None:
        nonlocal last, best
        last = evaluate(state.factors, stopping.until_stopped)
        if not math.isfinite(last["loss"]):
            raise Diverged(f"update {step}: the validation loss is {last['loss']}; {_NOT_FINITE}")
        log_file.write(step, "validation", last)
        progress_line.write(f"update {step}: validation " + _show(last))
        if not best or score(last) > score(best):
            best = {"step": step, **last}
            on_best(state.factors, best)

    with _Progress(start, plan.steps) as progress_line, stop_on_signal() as stopping:
        try:
            step = start
            if owed:
                evaluate_at(step)
            if restored is None:
                save(step)
            window.restart()
            pending = None  # the last update's figures, read only once the next update is under way
            for step in range(start + 1, plan.steps + 1):
                group = [next(batches) for _ in range(plan.accumulate)]
                state, metrics = steps.train(state, base, group)
                if pending is not None:
                    window.add(_finite(*pending))
                pending = step, metrics
                stop = stopping.asked_by(step)
                evaluating = step % plan.eval_every == 0 or step == plan.steps
                saving = step % plan.checkpoint_every == 0 or step == plan.steps or stop
                logging = step % plan.log_every == 0 or step == plan.steps
                if evaluating or saving or logging:
                    window.add(_finite(*pending))
                    pending = None
                if logging:
                    values = window.close()
                    log_file.write(step, "train", values)
                    progress_line.show(values)
                progress_line.advance(step)
                if evaluating:
                    evaluate_at(step)
                    window.restart()
                if saving:
                    save(step)
                if stop:
                    raise Interrupted(step, stopping.signal)
        except Stopped:
            # In an evaluation, which the run that goes on from here does first.
            save(step, owed=True)
            raise Interrupted(step, stopping.signal) from None
        finally:
            checkpoints.wait()
            log_file.close()
    return Fit(state, last, best, seconds(), plan.steps - start)


_NOT_FINITE = (
    "the last checkpoint is kept. In another --workdir try a lower config.train.learning_rate, a longer "
    "config.train.warmup, a config.train.clip, or config.dtype=float32"
)


@jax.jit
def _all_finite(factors: PyTree[Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(factors)]))


def _finite(step: int, metrics: Mapping[str, Array]) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()}
    if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
        raise Diverged(
            f"update {step}: the loss is {values['loss']} and its gradient's norm {values['gradient_norm']}; "
            + _NOT_FINITE
        )
    return values


class _Window:
    """The means over the updates since the last line of the log; `values` is what a checkpoint keeps of it."""

    def __init__(self, values: list[dict[str, float]]):
        self.values = values
        self.restart()

    def add(self, values: dict[str, float]) -> None:
        self.values.append(values)

    def restart(self) -> None:
        """Begin to count time here: what went before was no training, or another process's."""
        self._counted = len(self.values)
        self._began = time.perf_counter()

    def close(self) -> dict[str, float]:
        """The means, and what the window took; then a new window begins."""
        seconds, values = time.perf_counter() - self._began, self.values
        weight = sum(value["weight"] for value in values)
        means = {
            "loss": sum(value["loss"] * value["weight"] for value in values) / weight,
            "gradient_norm": sum(value["gradient_norm"] for value in values) / len(values),
            "tokens_per_second": sum(value["tokens"] for value in values[self._counted :]) / seconds,
            "seconds_per_update": seconds / max(1, len(values) - self._counted),
        }
        self.values = []
        self.restart()
        return means


class _Progress:
    """One line on the terminal: updates done, time left, loss, tokens (no padding) a second."""

    def __init__(self, start: int, steps: int):
        from tqdm import tqdm

        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 10,
            disable=not is_first(),
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, step: int) -> None:
        self._bar.update(step - self._bar.n)

    def show(self, values: Mapping[str, float]) -> None:
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s")

    def write(self, line: str) -> None:
        if is_first():
            self._bar.write(line)


def _show(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
