"""GLUE: the splits of a task, from a folder of TSV files or from TFDS, and their tokens with labels."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.data.glue.tasks import GlueTask
from hut_jax.data.glue.tfds import read_tfds
from hut_jax.data.glue.tsv import GlueExample, find_files, read_split
from hut_jax.data.labelled_texts import LabelledTexts
from hut_jax.data.tokenizer import Tokenizer

NO_LABEL = -1  # of an example without one, as in TFDS


class GlueSplits(NamedTuple):
    """The examples of each split, and notes for the user."""

    splits: dict[str, list[GlueExample]]
    notes: tuple[str, ...]


def load_glue(
    task: GlueTask,
    data_dir: str | os.PathLike[str] | None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    tests: bool = True,
) -> GlueSplits:
    """The splits of a task, each in the order of its file. Test splits are read only if their files are there.

    Args:
        task: the task.
        data_dir: the folder that holds `CoLA/`, `SST-2/` and so on, or the task's own folder. None or empty: TFDS'
            `glue/<task>`, which is downloaded if it is not prepared yet.
        cache_dir: TFDS' folder for prepared data; None or empty: its own default.
        tests: whether to read the test splits.

    Raises:
        UserError: a file is missing or malformed, or TFDS cannot give the data.
    """
    if not data_dir:
        return GlueSplits(read_tfds(task, cache_dir=cache_dir), ())
    splits, notes = {}, []
    for split, path in find_files(task, data_dir).items():
        if split.startswith("test") and not tests:
            continue
        splits[split], dropped = read_split(task, split, path)
        if dropped:
            notes.append(f"{dropped} broken rows of {path} were left out, as TFDS leaves them out")
    return GlueSplits(splits, tuple(notes))


def encode_glue(
    task: GlueTask, examples: Sequence[GlueExample], tokenizer: Tokenizer, max_length: int
) -> tuple[LabelledTexts, int]:
    """The examples as the model reads them, and the number of those that were cut.

    An example of more than `max_length` tokens is cut, its longer text first. The examples of a test split have
    `NO_LABEL`.

    Raises:
        UserError: there is no example, or `max_length` has no room for a token of each text.
    """
    if not examples:
        raise UserError(f"there are no examples of {task.name} to encode")
    encoded = tokenizer.encode_texts([example.texts for example in examples], max_length)
    labels = [NO_LABEL if example.label is None else example.label for example in examples]
    array = np.array(labels, np.float32 if task.regression else np.int32)
    return LabelledTexts(encoded.ids, encoded.types, array, tokenizer.special("pad")), encoded.truncated
