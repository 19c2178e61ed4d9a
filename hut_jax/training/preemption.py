"""Stop a run on Ctrl-C, or on the SIGTERM that a scheduler sends before it takes the machine away."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from jax.experimental import multihost_utils

from hut_jax.parallel.processes import several

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A stop was requested during work that may be abandoned, such as an evaluation."""


class Stopping:
    """Whether a signal requested a stop, and which signal."""

    def __init__(self) -> None:
        self.asked = False
        self.signal = signal.SIGINT

    def asked_by(self, step: int) -> bool:
        """Whether to stop after this step. If one of several processes gets a signal, all stop after the same step."""
        if several() and multihost_utils.reached_preemption_sync_point(step):
            self.asked, self.signal = True, signal.SIGTERM
        return self.asked

    def until_stopped(self, items: Iterable[T]) -> Iterator[T]:
        """The items, one by one.

        Raises:
            Stopped: a stop was requested before the next item.
        """
        for item in items:
            if self.asked:
                raise Stopped
            yield item


@contextmanager
def stop_on_signal() -> Iterator[Stopping]:
    """Let the first signal request a stop. A second signal of the same kind acts as usual."""
    stopping = Stopping()
    # Only the main thread may handle signals. With several processes JAX's own SIGTERM handler informs the others.
    if several() or threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, _: object) -> None:
        stopping.asked, stopping.signal = True, signal.Signals(number)
        signal.signal(number, previous[stopping.signal])

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
