"""The loop, around a step that is plain arithmetic: what is done when, what is saved, and how a run resumes."""

import copy
import json
import math
import signal
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hut_jax.core.errors import Diverged, Interrupted
from hut_jax.training import loop, progress, window
from hut_jax.training.log import MetricsLog, read_metrics
from hut_jax.training.loop import Plan, Trainer
from hut_jax.training.progress import ProgressBar
from hut_jax.training.steps import State

PLAN = Plan(steps=7, accumulate=2, log_every=3, eval_every=4, checkpoint_every=5)
# In nats, by step: the best is that of step 4.
VALIDATION = {0: 5.0, 4: 1.0, 7: 3.0}


class Killed(BaseException):
    """The process ends here."""


class Numbers:
    """Batches 0, 1, 2, ... with the state that Grain's iterators have."""

    def __init__(self):
        self.next = 0

    def __next__(self):
        self.next += 1
        return self.next - 1

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]


class Steps:
    """A step halves the factor and adds its batches, so that the factor tells which batches came in which order.

    Args:
        at: what happens before a step, by its number: a function, or figures that replace the step's own.
    """

    def __init__(self, at=None):
        self.at = at or {}
        self.done = []

    def train(self, state, base, batches):
        step = state.step + 1
        happens = self.at.get(step, {})
        if callable(happens):
            happens()
            happens = {}
        self.done.append((step, batches))
        assert base == "base"
        figures = {"loss": 10.0 / step, "weight": float(step), "gradient_norm": 2.0 * step, "tokens": 100.0 * step}
        factors = {"a": state.factors["a"] / 2 + sum(batches)}
        return State(step, happens.pop("factors", factors), ()), figures | happens


class Kept:
    """Checkpoints in memory, as JSON where a checkpoint has JSON."""

    def __init__(self):
        self.saved, self.waited = {}, 0

    def save(self, step, state, progress):
        self.saved[step] = copy.deepcopy(state), json.dumps(progress)

    def restore_newest(self, like):
        if not self.saved:
            return None
        step = max(self.saved)
        state, progress = self.saved[step]
        return step, copy.deepcopy(state), json.loads(progress)

    def wait(self):
        self.waited += 1


class Run:
    """A run that may be killed and started again."""

    def __init__(self, folder, plan=PLAN, validation=VALIDATION, sign=-1.0):
        folder.mkdir(exist_ok=True)
        self.folder, self.plan, self.validation, self.sign = folder, plan, validation, sign
        self.checkpoints, self.best, self.evaluated, self.closed = Kept(), [], [], 0

    def evaluate(self, factors, watch):
        batches = list(watch([1, 2]))
        assert batches == [1, 2]
        self.evaluated.append(float(factors["a"]))
        return {"loss": self.validation[self.steps.done[-1][0] if self.steps.done else self.restored]}

    def open_log(self, step, lines):
        log = MetricsLog(self.folder, step, lines)
        close = log.close

        def closed():
            self.closed += 1
            close()

        log.close = closed
        return log

    def start(self, at=None, steps=Steps, batches=Numbers, open_bar=ProgressBar):
        self.steps = steps(at)
        self.restored = max(self.checkpoints.saved, default=0)
        trainer = Trainer(
            self.steps,
            "base",
            batches(),
            self.plan,
            evaluate=self.evaluate,
            signed_score=lambda metrics: self.sign * metrics["loss"],
            save_best=lambda factors: self.best.append(float(factors["a"])),
            learning_rate=lambda step: step / 100,
            checkpoints=self.checkpoints,
            open_log=self.open_log,
            open_bar=open_bar,
        )
        return trainer.fit(State(0, {"a": np.float32(1.0)}, ()))

    def lines(self):
        """The log without its times."""
        return [
            {name: value for name, value in line.items() if "second" not in name} for line in read_metrics(self.folder)
        ]


@pytest.fixture
def unbroken(tmp_path):
    run = Run(tmp_path / "unbroken")
    run.fit = run.start()
    return run


def after(steps):
    """The factor after so many steps."""
    factor = 1.0
    for step in range(steps):
        factor = factor / 2 + (2 * step) + (2 * step + 1)
    return factor


def test_a_step_is_due_every_so_many_and_at_the_end():
    assert [step for step in range(1, 8) if PLAN.due(step, 3)] == [3, 6, 7]
    assert [step for step in range(1, 8) if PLAN.due(step, 100)] == [7]


def test_a_run_does_what_its_plan_says(unbroken):
    run = unbroken
    assert run.steps.done == [(step, [2 * step - 2, 2 * step - 1]) for step in range(1, 8)]
    assert run.fit.state.factors["a"] == after(7)
    assert (run.fit.steps, run.fit.steps_now) == (7, 7)
    assert run.evaluated == [after(0), after(4), after(7)]
    assert run.best == [after(0), after(4)]  # those of step 7 are worse
    assert (run.fit.last, run.fit.best) == ({"loss": 3.0}, {"step": 4, "loss": 1.0})
    assert {step: float(state.factors["a"]) for step, (state, _) in run.checkpoints.saved.items()} == {
        step: after(step) for step in (0, 5, 7)
    }
    assert (run.checkpoints.waited, run.closed) == (1, 1)


def test_a_run_may_take_its_first_step_before_it_validates(tmp_path):
    run = Run(tmp_path / "run", replace(PLAN, eval_on_start=False), {4: 6.0, 7: 7.0})
    fit = run.start()
    assert run.evaluated == [after(4), after(7)]
    assert run.best == [after(4)]
    assert (fit.last, fit.best) == ({"loss": 7.0}, {"step": 4, "loss": 6.0})
    assert min(run.checkpoints.saved) == 0


def test_the_log_has_the_means_of_the_steps_since_the_last_line(unbroken):
    train = [
        {"loss": 30 / 6, "gradient_norm": 4.0, "learning_rate": 0.03},
        {"loss": 30 / 15, "gradient_norm": 10.0, "learning_rate": 0.06},
    ]
    assert unbroken.lines() == [
        {"step": 0, "split": "validation", "loss": 5.0},
        {"step": 3, "split": "train", **train[0]},
        {"step": 4, "split": "validation", "loss": 1.0},
        {"step": 6, "split": "train", **train[1]},
        {"step": 7, "split": "train", "loss": 10 / 7, "gradient_norm": 14.0, "learning_rate": 0.07},
        {"step": 7, "split": "validation", "loss": 3.0},
    ]


def test_the_terminal_shows_each_line_of_the_log(tmp_path, capsys):
    Run(tmp_path / "run").start()
    out, error = capsys.readouterr()
    assert out == "step 0: validation loss 5\nstep 4: validation loss 1\nstep 7: validation loss 3\n"
    assert "7/7" in error
    for loss in (30 / 6, 30 / 15, 10 / 7):
        assert f"loss {loss:.3f}, " in error


class Read(float):
    """A figure that is there a second after it was asked for: the step ends then."""

    def __new__(cls, value, clock):
        read = super().__new__(cls, value)
        read.clock = clock
        return read

    def __float__(self):
        self.clock.seconds += 1
        return super().__float__()


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(perf_counter=lambda: clock.seconds, seconds=50.0)
    for module in (loop, progress, window):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def timed(clock):
    """Steps that take a second each, and 500 more before the first one and those named by `new`, to be compiled."""

    class Timed(Steps):
        new = ()

        def train(self, state, base, batches):
            if not self.done or state.step + 1 in self.new:
                clock.seconds += 500
            state, figures = super().train(state, base, batches)
            return state, figures | {"loss": Read(figures["loss"], clock)}

    return Timed


def test_times_are_those_of_training(tmp_path, clock, timed):
    """By a clock that an evaluation moves on by 1,000 seconds."""

    class Slow(Run):
        def evaluate(self, factors, watch):
            clock.seconds += 1000
            return super().evaluate(factors, watch)

    def killed():
        raise Killed

    run = Slow(tmp_path / "run")
    with pytest.raises(Killed):
        run.start({6: killed}, timed)
    clock.seconds += 1e6  # between the processes
    fit = run.start(steps=timed)
    assert fit.seconds == 3 * 1000 + 2 * 500 + 7
    # The step that a line waits for is in its time: the steps 1 to 3; 5 was in another process, 6 in this one; 7.
    lines = [line for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    assert [line["seconds_per_step"] for line in lines] == [1, 1, 1]
    assert [line["tokens_per_second"] for line in lines] == [200, 600, 700]


class Shapes(Numbers):
    """Batches of which the third, and each after it, is wider than the first two."""

    def __next__(self):
        return {"tokens": np.zeros((2, 8 if super().__next__() < 2 else 16))}


def test_a_batch_of_new_shapes_compiles_and_the_terminal_says_so(tmp_path, clock, timed):
    said = []

    class Bar(ProgressBar):
        @contextmanager
        def compiling(self):
            said.append(f"step {len(run.steps.done) + 1}" if run.evaluated else "evaluation")
            with super().compiling():
                yield

        def advance(self, step):
            super().advance(step)
            said.append((step, self._bar.left))

    class ShapedSteps(timed):
        new = (3,)

        def train(self, state, base, batches):
            return super().train(state, base, [float(batch["tokens"].shape[1]) for batch in batches])

    plan = Plan(steps=4, accumulate=1, log_every=4, eval_every=4, checkpoint_every=4)
    run = Run(tmp_path / "run", plan)
    run.start(steps=ShapedSteps, batches=Shapes, open_bar=Bar)
    # The evaluation's batches have one shape. While a step is begun, the one before it ends.
    assert said == ["evaluation", "step 1", (1, None), (2, 2.0), "step 3", (3, 1.0), (4, 0.0)]
    (line,) = [line for line in read_metrics(tmp_path / "run") if line["split"] == "train"]
    assert (line["seconds_per_step"], line["tokens_per_second"]) == (1, (300 + 400) / 2)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_killed_at_any_step_ends_as_if_it_had_not_been(step, unbroken, tmp_path):
    def killed():
        raise Killed

    run = Run(tmp_path / "run")
    with pytest.raises(Killed):
        run.start({step: killed})
    assert run.restored == 0
    assert (run.checkpoints.waited, run.closed) == (1, 1)
    run.checkpoints.saved.pop(7, None)
    fit = run.start()
    assert run.restored == (5 if step > 5 else 0)
    assert (fit.steps, fit.steps_now) == (7, 7 - run.restored)
    assert fit.state.factors["a"] == unbroken.fit.state.factors["a"]
    assert (fit.last, fit.best) == (unbroken.fit.last, unbroken.fit.best)
    assert run.lines() == unbroken.lines()
    assert run.checkpoints.saved.keys() == unbroken.checkpoints.saved.keys()


def test_a_finished_run_started_again_does_nothing(unbroken):
    lines = read_metrics(unbroken.folder)
    fit = unbroken.start()
    assert (fit.steps, fit.steps_now, unbroken.steps.done) == (7, 0, [])
    assert (fit.last, fit.best) == (unbroken.fit.last, unbroken.fit.best)
    assert fit.state.factors["a"] == after(7)
    assert unbroken.evaluated == [after(0), after(4), after(7)]
    assert read_metrics(unbroken.folder) == lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_after_its_step_and_saves(number, unbroken, tmp_path):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    run = Run(tmp_path / "run")
    with pytest.raises(Interrupted, match=rf"{number.name}: stopped after step 2 and saved") as stopped:
        run.start({2: lambda: signal.raise_signal(number)})
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert sorted(run.checkpoints.saved) == [0, 2]
    assert run.evaluated == [after(0)]
    assert run.start().state.factors["a"] == unbroken.fit.state.factors["a"]
    assert run.evaluated == unbroken.evaluated
    assert run.lines() == unbroken.lines()


@pytest.mark.parametrize("step", [0, 4])
def test_a_stop_within_an_evaluation_does_not_wait_for_it(step, unbroken, tmp_path):
    """The evaluation is abandoned, and the resumed run does it first."""

    class Stopped(Run):
        stop = True

        def evaluate(self, factors, watch):
            if self.stop and len(self.steps.done) == step:
                self.stop = False
                for number, _ in enumerate(watch([1, 2, 3])):
                    assert number == 0
                    signal.raise_signal(signal.SIGTERM)
            return super().evaluate(factors, watch)

    run = Stopped(tmp_path / "run")
    with pytest.raises(Interrupted, match=f"stopped after step {step} and saved"):
        run.start()
    assert max(run.checkpoints.saved) == step
    assert step not in [line["step"] for line in run.lines() if line["split"] == "validation"]
    fit = run.start()
    assert fit.state.factors["a"] == unbroken.fit.state.factors["a"]
    assert (fit.last, fit.best) == (unbroken.fit.last, unbroken.fit.best)
    assert run.evaluated == unbroken.evaluated
    assert run.lines() == unbroken.lines()


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"loss": math.nan}, r"step 4: the loss is nan and its gradient's norm 8.0; .*config.train.learning_rate"),
        ({"gradient_norm": math.inf}, r"step 4: the loss is 2.5 and its gradient's norm inf; "),
        ({"factors": {"a": np.float32(np.inf)}}, r"step 4: a factor is not finite; the last checkpoint is kept"),
    ],
)
def test_a_step_that_is_not_finite_stops_the_run_and_is_not_saved(figures, message, tmp_path):
    plan = Plan(steps=7, accumulate=1, log_every=100, eval_every=100, checkpoint_every=2)
    run = Run(tmp_path / "run", plan)
    with pytest.raises(Diverged, match=message):
        run.start({4: figures})
    assert sorted(run.checkpoints.saved) == [0, 2]
    assert (run.checkpoints.waited, run.closed) == (1, 1)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_stops_the_run(loss, tmp_path):
    run = Run(tmp_path / "run", validation=VALIDATION | {4: loss})
    with pytest.raises(Diverged, match=rf"step 4: the validation loss is {loss}; .*config.train.learning_rate"):
        run.start()
    assert run.best == [after(0)]
    assert sorted(run.checkpoints.saved) == [0]
    assert [line["step"] for line in run.lines() if line["split"] == "validation"] == [0]


@pytest.mark.parametrize(
    ("sign", "scores", "best"),
    [
        (-1.0, (3.0, 2.0, 2.0), 4),  # an equal one is no better
        (-1.0, (1.0, 2.0, 3.0), 0),
        (1.0, (1.0, 3.0, 2.0), 4),
        (1.0, (1.0, 2.0, 3.0), 7),
    ],
)
def test_the_best_has_the_highest_signed_score(sign, scores, best, tmp_path):
    run = Run(tmp_path / "run", validation=dict(zip((0, 4, 7), scores, strict=True)), sign=sign)
    fit = run.start()
    assert fit.best == {"step": best, "loss": run.validation[best]}
    assert run.best[-1] == after(best)
    assert fit.last == {"loss": scores[-1]}
