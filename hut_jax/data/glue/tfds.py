"""GLUE as TFDS prepares it (`glue/<task>`), read without TensorFlow."""

import importlib
import os
from pathlib import Path
from typing import Any

from hut_jax.core.errors import UserError, one_line
from hut_jax.data.glue.tasks import GlueTask
from hut_jax.data.glue.tsv import GlueExample
from hut_jax.data.tfds import check_reachable, quiet, read_rows

_HOST = "https://dl.fbaipublicfiles.com"


def read_tfds(task: GlueTask, *, cache_dir: str | os.PathLike[str] | None = None) -> dict[str, list[GlueExample]]:
    """All splits of the task, downloaded and prepared once, each in the order of its file.

    TFDS registers its builder of GLUE only where TensorFlow is installed. The builder itself does not need TensorFlow,
    so it is imported from its module. The prepared data is kept as array_record files, which TFDS reads without
    TensorFlow. Data that a TensorFlow program prepared earlier may be in a format that needs TensorFlow.

    Args:
        task: the task.
        cache_dir: the folder of the prepared data; None or empty: TFDS' own folder (`TFDS_DATA_DIR`, or else
            `~/tensorflow_datasets`).

    Raises:
        UserError: this TFDS has no builder of GLUE, the download fails, the cache cannot be read, or the labels are in
            another order than `task.labels`.
    """
    # TFDS takes a third of a second to import.
    import tensorflow_datasets as tfds

    try:
        glue = importlib.import_module("tensorflow_datasets.text.glue").Glue
    except (ImportError, AttributeError) as error:
        raise UserError(f"this TFDS has no builder of GLUE ({one_line(error)}); {_instead(task)}") from error
    cache = Path(cache_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        with quiet():
            builder = glue(config=task.name, data_dir=os.fspath(cache), file_format="array_record")
            if not builder.is_prepared():
                check_reachable(builder.builder_config.data_url or _HOST)
                builder.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds of errors for a failed download or cache
        raise UserError(f"cannot download or prepare glue/{task.name} ({one_line(error)}); {_instead(task)}") from error
    names = tuple(getattr(builder.info.features["label"], "names", ()))
    if names != task.labels:
        raise UserError(f"glue/{task.name} has the labels {names}, and {task.labels} are expected; {_instead(task)}")
    return {split: _examples(builder, task, split) for split in task.files}


def _examples(builder: Any, task: GlueTask, split: str) -> list[GlueExample]:
    number = float if task.regression else int
    examples = [
        GlueExample(
            tuple(row[feature].decode() for feature in task.texts.values()),
            None if split.startswith("test") else number(row["label"]),
            int(row["idx"]),
        )
        for row in read_rows(builder, split)
    ]
    return sorted(examples, key=lambda example: example.row)  # TFDS shuffles what it prepares


def _instead(task: GlueTask) -> str:
    return f"give a folder that holds {task.folder}/ with its TSV files instead"
