"""The steps since the last line of the log, and their means."""

import time


class Window:
    """The figures of the steps since the last line of the log.

    Attributes:
        values: the figures of each step. A checkpoint keeps them.
    """

    def __init__(self, values: list[dict[str, float]]):
        self.values = values
        self.restart_clock()

    def add(self, values: dict[str, float]) -> None:
        """Add a step."""
        self.values.append(values)

    def restart_clock(self) -> None:
        """Measure time from here: the time before was not spent on training, or on compiling, or in another process."""
        self._timed_from = len(self.values)
        self._began = time.perf_counter()

    def close(self) -> dict[str, float]:
        """Return the means for a line of the log, and begin a new window."""
        seconds, values = time.perf_counter() - self._began, self.values
        weight = sum(value["weight"] for value in values)
        means = {
            "loss": sum(value["loss"] * value["weight"] for value in values) / weight,
            "gradient_norm": sum(value["gradient_norm"] for value in values) / len(values),
            "tokens_per_second": sum(value["tokens"] for value in values[self._timed_from :]) / seconds,
            "seconds_per_step": seconds / max(1, len(values) - self._timed_from),
        }
        self.values = []
        self.restart_clock()
        return means
