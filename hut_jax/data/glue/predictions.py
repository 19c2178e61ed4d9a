"""Predictions as files for the GLUE test server: rows of `index<TAB>prediction`, one for each test example."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import write_text
from hut_jax.data.glue.tasks import GlueTask
from hut_jax.data.glue.tsv import GlueExample


def write_predictions(
    folder: str | os.PathLike[str],
    task: GlueTask,
    split: str,
    examples: Sequence[GlueExample],
    predictions: Sequence[int] | Sequence[float],
) -> Path:
    """Write the file that the test server expects for a test split, under the name that it expects.

    The classes of MNLI, QNLI and RTE are written as names, those of the other tasks as numbers. Values of STS-B are
    clipped to 0 to 5.

    Args:
        folder: of the file; it is made if it is missing.
        task: the task.
        split: a test split of the task. MNLI has two.
        examples: of the split, for the rows' numbers.
        predictions: a class or a value for each example, in the same order.

    Returns:
        The file's path.

    Raises:
        UserError: the split is no test split, there are not as many predictions as examples, a prediction is not one of
            the task's, or the file cannot be written.
    """
    if split not in task.submission:
        raise UserError(f"{task.name} has no test split {split!r}; {nearest(split, task.submission)}")
    if len(predictions) != len(examples):
        raise UserError(f"{len(predictions)} predictions for {len(examples)} examples of {task.name}'s {split}")
    rows = [f"{e.row}\t{_written(task, p, e.row)}\n" for e, p in zip(examples, predictions, strict=True)]
    path = Path(folder) / task.submission[split]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "index\tprediction\n" + "".join(rows))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def _written(task: GlueTask, prediction: int | float, row: int) -> str:
    where = f"the prediction for row {row} of {task.name} is {prediction}"
    if task.regression:
        if math.isnan(prediction):
            raise UserError(f"{where}; a number is expected")
        return f"{min(max(float(prediction), task.low), task.high):.6f}"
    if prediction not in range(len(task.labels)):
        raise UserError(f"{where}; a class from 0 to {len(task.labels) - 1} is expected")
    return task.labels[int(prediction)] if task.named else str(int(prediction))
