"""What is learned: from a batch to a loss, from predictions to metrics."""

from hut_jax.tasks import e2e, lm
from hut_jax.tasks.base import LoadTask, Task

TASKS: dict[str, LoadTask] = {"e2e": e2e.load, "lm": lm.load}
"""Every task by the name a config gives it."""

__all__ = ["TASKS", "Task"]
