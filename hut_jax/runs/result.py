"""`result.json`: the figures of a run."""

from pathlib import Path
from typing import Any

from hut_jax.adapters.files import size_on_disk
from hut_jax.core.errors import UserError
from hut_jax.core.files import read_json
from hut_jax.data.stream import mean_length
from hut_jax.runs.machine import commit, describe_machine, peak_bytes
from hut_jax.runs.run import Run
from hut_jax.runs.workdir import ADAPTER
from hut_jax.tasks import TaskData
from hut_jax.training.earlier_names import current_names
from hut_jax.training.loop import Fit

RESULT = "result.json"
_LIBRARIES = (
    "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax", "optax", "orbax-checkpoint", "grain",
    "numpy", "scipy", "scikit-learn", "transformers", "tokenizers", "safetensors",
)  # fmt: skip
"""The packages that a result may depend on. Plugins for devices are rarely all there."""

_OF_THE_TRAINING = ("command", "commit", "device", "platform", "versions", "peak_bytes")


def make_result(run: Run, data: TaskData, done: Fit, fingerprint: str, workdir: Path, command: str) -> dict[str, Any]:
    """The figures of a run that has just ended.

    Args:
        run: the run.
        data: the run's data.
        done: the finished training.
        fingerprint: the base's.
        workdir: the folder with the best factors.
        command: what the user typed; "" if it was no command.
    """
    count = run.adapter.count(run.shapes)
    result = {
        "task": run.task.name,
        "steps": done.steps,
        "metrics": done.last,
        "best": done.best,
        "score_name": run.task.score_name,
        "maximize": run.task.maximize,
        "mean_length": mean_length(data.train),
        "seconds": round(done.seconds, 3),
        "trainable": count.trainable,
        "total": count.total,
        "percent": count.percent,
        "adapter_bytes": size_on_disk(workdir / ADAPTER),
        "peak_bytes": peak_bytes(),
        "base": {"name": run.config.model, "fingerprint": fingerprint},
        "tokenizer": run.tokenizer.fingerprint,
        "command": command,
        "commit": commit(),
        **describe_machine(*_LIBRARIES),
    }
    if not done.steps_now and (earlier := read_kept(workdir)):  # a finished run was started again: its own are kept
        kept = {name: earlier[name] for name in _OF_THE_TRAINING if name in earlier}
        result |= {"command": "", "commit": ""} | kept  # earlier versions kept neither
    return result


def read_result(workdir: Path) -> dict[str, Any] | None:
    """The figures of the run in this folder; None if the run has not ended yet.

    Raises:
        UserError: the file is damaged.
    """
    path = workdir / RESULT
    if not path.exists():
        return None
    try:
        return current_names(read_json(path))
    except UserError as error:
        raise UserError(f"{error}; the run's training command writes it anew") from None


def read_kept(workdir: Path) -> dict[str, Any]:
    """The figures of an earlier end of the run, with those of an evaluation; {} if they are missing or damaged."""
    try:
        return read_result(workdir) or {}
    except UserError:
        return {}
