"""The training step and the loop. It trains whatever factors a loss depends on, and knows no task by name."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, PyTree

from hut_jax.checkpoint import Checkpoints
from hut_jax.errors import Diverged, Interrupted
from hut_jax.metrics_log import MetricsLog, NoLog
from hut_jax.processes import is_first
from hut_jax.stopping import Stopped, stop_on_signal

Batch = Mapping[str, Any]
Forward = Callable[..., Array]
"""`forward(base, factors, *args, **kwargs)`: the adapted model."""
Loss = Callable[..., tuple[Array, Array, Any]]
"""`loss(apply, batch, label_smoothing=, **kwargs)`: a batch's summed loss, the weight to divide it by, and whatever
metrics want to know of the batch."""
Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""The batches as they are, or an exception between two of them."""


@flax.struct.dataclass
class State:
    """What a training step changes."""

    step: Array
    factors: PyTree[Array]
    opt_state: PyTree[Array]


class Steps:
    """The compiled training update.

    The base is an argument of it, never closed over: it is not copied into the compiled code, not donated, and
    has no gradient.

    Args:
        forward: the adapted model.
        loss: of a batch.
        optimizer: of what trains.
        label_smoothing: the loss function's.
        dropout: whether the model's own acts.
        seed: of dropout.
        place: puts a batch on the devices that it is shared out over.
        shardings: where the state's arrays lie, before and after an update: `state_shardings`.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        *,
        label_smoothing: float = 0.0,
        dropout: bool = True,
        seed: int = 0,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        shardings: State | None = None,
    ):
        self._forward, self._loss, self._optimizer = forward, loss, optimizer
        self._label_smoothing, self._dropout = label_smoothing, dropout
        self._place = place
        self._key = jax.random.key(seed)
        # Gradients and update are compiled apart, and the key is an argument: runs that differ in nothing but seed,
        # rate or length then share the gradient's code in a compilation cache, and it is nearly all there is.
        whole = None if shardings is None else shardings.step
        sums = None if shardings is None else (shardings.factors, whole, whole, whole)
        self._init = jax.jit(self._first, out_shardings=shardings)
        self._gradients = jax.jit(self._sum_gradients, out_shardings=sums)
        self._add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)
        self._apply = jax.jit(self._update, donate_argnums=0, out_shardings=(shardings, whole))

    def init(self, factors: PyTree[Array]) -> State:
        """The state before the first update. It has its own copy of the factors, which updates then give up."""
        return self._init(factors)

    def train(self, state: State, base: PyTree, batches: Sequence[Batch]) -> tuple[State, dict[str, Array]]:
        """One update from these batches together; the old state is given up.

        Returns:
            The new state, and this update's mean training loss, the weight it was divided by, the gradient's norm,
            and the tokens, without padding.
        """
        sums = self._gradients(state.factors, base, self._place(batches[0]), self._key, state.step, 0)
        for part, batch in enumerate(batches[1:], start=1):
            more = self._gradients(state.factors, base, self._place(batch), self._key, state.step, part)
            sums = self._add(sums, more)
        return self._apply(state, sums)

    def lower(self, state: State, base: PyTree, batch: Batch) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
        """What `train` runs on a batch: the gradient, which is nearly all of it, and the update. For measuring."""
        arguments = state.factors, base, self._place(batch), self._key, state.step, 0
        gradients = self._gradients.lower(*arguments)
        return gradients, self._apply.lower(state, jax.eval_shape(self._gradients, *arguments))

    def _first(self, factors):
        return State(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, factors), self._optimizer.init(factors))

    def _sum_gradients(self, factors, base, batch, key, step, part):
        """Gradients of the summed loss, and the sums to divide them by: so parts add up to the whole batch's."""
        key = jax.random.fold_in(jax.random.fold_in(key, step), part)

        def loss(factors):
            total, weight, _ = self._loss(
                partial(self._forward, base, factors),
                batch,
                label_smoothing=self._label_smoothing,
                deterministic=not self._dropout,
                rngs={"dropout": key},
            )
            return total, weight

        (total, weight), gradients = jax.value_and_grad(loss, has_aux=True)(factors)
        return gradients, total, weight, jnp.sum(batch["attention_mask"])

    def _update(self, state, sums):
        gradients, total, weight, tokens = sums
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.factors)
        factors = optax.apply_updates(state.factors, updates)
        metrics = {"loss": total / weight, "weight": weight, "tokens": tokens}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return State(state.step + 1, factors, opt_state), metrics


def state_shardings(
    optimizer: optax.GradientTransformation, factors: PyTree[Any], shardings: PyTree[NamedSharding]
) -> State:
    """Where a state lies: the optimiser's figures of a factor with the factor, single numbers on every device.

    Args:
        optimizer: of what trains.
        factors: or their shapes.
        shardings: theirs.
    """
    whole = NamedSharding(jax.tree.leaves(shardings)[0].mesh, PartitionSpec())
    opt_state = jax.eval_shape(optimizer.init, factors)
    placed = optax.tree_map_params(
        optimizer, lambda _, sharding: sharding, opt_state, shardings, transform_non_params=lambda _: whole
    )
    return State(cast(Any, whole), shardings, placed)


class Judged(NamedTuple):
    """What an evaluation finds: the mean loss, and of each batch what the loss function gave for the metrics."""

    loss: float
    outputs: list[Any]


class Evaluation:
    """Factors judged on batches, without dropout and label smoothing.

    Args:
        forward: the adapted model.
        loss: of a batch.
        place: puts a batch on the devices that it is shared out over.
        whole: "on every device", where results are to be, so that each process can read them.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        whole: NamedSharding | None = None,
    ):
        self._place = place
        self._judge = jax.jit(
            lambda base, factors, batch: loss(partial(forward, base, factors), batch, deterministic=True),
            out_shardings=whole,
        )

    def __call__(self, base: PyTree, factors: PyTree[Array], batches: Iterable[Batch]) -> Judged:
        """The batches' summed losses over their summed weights, and their outputs, fetched to the host."""
        judged = [self._judge(base, factors, self._place(batch)) for batch in batches]
        losses, weights, outputs = zip(*jax.device_get(judged), strict=True)
        return Judged(sum(map(float, losses)) / sum(map(float, weights)), list(outputs))


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
