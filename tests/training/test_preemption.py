"""A stop by a signal."""

import signal
import threading

import pytest

from hut_jax.training import preemption
from hut_jax.training.preemption import SIGNALS, Stopped, Stopping, stop_on_signal


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_acts_as_usual(number):
    called = []
    usual = signal.signal(number, lambda *_: called.append("as usual"))
    try:
        before = handlers()
        with stop_on_signal() as stopping:
            assert not stopping.asked_by(1)
            signal.raise_signal(number)
            assert stopping.asked_by(1)
            assert (stopping.signal, called) == (number, [])
            signal.raise_signal(number)
            assert called == ["as usual"]
        assert handlers() == before
    finally:
        signal.signal(number, usual)


def test_handlers_come_back_after_an_error():
    before = handlers()
    with pytest.raises(KeyError), stop_on_signal():
        {}[handlers() != before]
    assert handlers() == before


def test_items_end_where_a_stop_was_asked_for():
    stopping = Stopping()
    assert list(stopping.until_stopped([1, 2])) == [1, 2]
    items = stopping.until_stopped([1, 2])
    assert next(items) == 1
    stopping.asked = True
    with pytest.raises(Stopped):
        next(items)


def test_another_thread_leaves_signals_alone():
    """Python lets the main thread alone handle them: a notebook may train in another."""
    before, seen = handlers(), []

    def train():
        with stop_on_signal() as stopping:
            seen.append((handlers() == before, stopping.asked))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


def test_of_several_processes_all_stop_after_the_step_that_jax_agrees_on(monkeypatch):
    monkeypatch.setattr(preemption, "several", lambda: True)
    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", lambda step: step == 3)
    before = handlers()
    with stop_on_signal() as stopping:
        assert handlers() == before  # JAX has its own
        assert [stopping.asked_by(step) for step in (1, 2, 3, 4)] == [False, False, True, True]
        assert stopping.signal == signal.SIGTERM
