"""The tasks that a model can learn, by name. May import generation and the folders below it."""

from hut_jax.core.errors import UserError, nearest
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.tasks.base import Ability, GeneratesText, PredictsLabels, ScoresTexts, Task, TaskData
from hut_jax.tasks.chat import Chat
from hut_jax.tasks.e2e import E2E
from hut_jax.tasks.glue import Glue
from hut_jax.tasks.lm import PlainText
from hut_jax.tasks.mlm import MaskedLM

_TASKS: list[Task] = [E2E(), Chat(), PlainText(), MaskedLM(), *map(Glue, GLUE_TASKS.values())]
TASKS = {task.name: task for task in _TASKS}
"""Every task by its name in a config."""


def task_named(name: str) -> Task:
    """The task of this name.

    Raises:
        UserError: there is no such task. The message has the nearest names.
    """
    if name not in TASKS:
        raise UserError(f"config.task is {name!r}; {nearest(name, TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "Ability", "GeneratesText", "PredictsLabels", "ScoresTexts", "Task", "TaskData", "task_named"]
