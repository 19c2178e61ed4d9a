"""The means of a line of the log."""

from types import SimpleNamespace

import pytest

from hut_jax.training import window
from hut_jax.training.window import Window

STEPS = [
    {"loss": 1.0, "weight": 1.0, "gradient_norm": 2.0, "tokens": 10.0},
    {"loss": 4.0, "weight": 2.0, "gradient_norm": 4.0, "tokens": 30.0},
]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(perf_counter=lambda: clock.seconds, seconds=100.0)
    monkeypatch.setattr(window, "time", clock)
    return clock


def test_the_loss_is_weighted_and_a_new_window_begins(clock):
    steps = Window([])
    for values in STEPS:
        clock.seconds += 4
        steps.add(values)
    means = {"loss": 3.0, "gradient_norm": 3.0, "tokens_per_second": 5.0, "seconds_per_step": 4.0}
    assert steps.close() == means
    assert steps.values == []
    clock.seconds += 2
    steps.add(STEPS[0])
    assert steps.close() == {"loss": 1.0, "gradient_norm": 2.0, "tokens_per_second": 5.0, "seconds_per_step": 2.0}


def test_steps_before_the_clock_started_count_in_the_means_alone(clock):
    steps = Window(STEPS[:1])
    clock.seconds += 50
    steps.restart_clock()
    clock.seconds += 3
    steps.add(STEPS[1])
    assert steps.close() == {"loss": 3.0, "gradient_norm": 3.0, "tokens_per_second": 10.0, "seconds_per_step": 3.0}


def test_a_window_whose_steps_were_all_before_has_a_time(clock):
    steps = Window(STEPS)
    clock.seconds += 2
    assert steps.close() == {"loss": 3.0, "gradient_norm": 3.0, "tokens_per_second": 0.0, "seconds_per_step": 2.0}
