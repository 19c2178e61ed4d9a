"""What is learned: from a batch to a loss, from predictions to metrics."""

from hut_jax.tasks import e2e, glue, lm, mlm
from hut_jax.tasks.base import Kind, Task

TASKS: dict[str, Kind] = {
    "e2e": Kind(e2e.load, {"head": "causal"}),
    "lm": Kind(lm.load, {"head": "causal"}),
    "mlm": Kind(mlm.load, {"head": "mlm"}),
    **glue.KINDS,
}
"""Every task by the name a config gives it."""

__all__ = ["TASKS", "Kind", "Task"]
