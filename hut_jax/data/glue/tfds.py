"""GLUE as TFDS prepares it (`glue/<task>`), read without TensorFlow."""

import importlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hut_jax.core.errors import UserError, one_line
from hut_jax.data.glue.tasks import GlueTask
from hut_jax.data.glue.tsv import GlueExample
from hut_jax.data.tfds import quiet

_HOST = "https://dl.fbaipublicfiles.com"


def read_tfds(task: GlueTask, *, cache_dir: str | os.PathLike[str] | None = None) -> dict[str, list[GlueExample]]:
    """All splits of the task, downloaded and prepared once, in the order of their files.

    TFDS registers its builder of GLUE, one of an older kind, only where TensorFlow is installed. The builder itself
    needs none of it, so it is taken from its module. What is prepared is kept as array_record files, which TFDS reads
    without TensorFlow; what a TensorFlow program prepared before may be of a kind that it does not.

    Args:
        task: which one.
        cache_dir: where the prepared data is kept; None or empty is TFDS' own folder (`TFDS_DATA_DIR`, or else
            `~/tensorflow_datasets`).

    Raises:
        UserError: the builder is not to be had, the download fails, the cache cannot be read, or the labels have
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
                _look_for(builder.builder_config.data_url or _HOST)
                builder.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds where a download or a cache is at fault
        raise UserError(f"cannot download or prepare glue/{task.name} ({one_line(error)}); {_instead(task)}") from error
    names = tuple(getattr(builder.info.features["label"], "names", ()))
    if names != task.labels:
        raise UserError(f"glue/{task.name} has the labels {names}, and {task.labels} are wanted; {_instead(task)}")
    return {split: _read_split(builder, task, split) for split in task.files}


def _read_split(builder: Any, task: GlueTask, split: str) -> list[GlueExample]:
    try:
        source = builder.as_data_source(split=split)
        rows = source.__getitems__(range(len(source)))  # many times faster than one by one
    except Exception as error:  # TFDS and array_record raise many kinds where a file is damaged
        raise UserError(
            f"the prepared {split} split in {builder.data_dir} cannot be read ({one_line(error)}); "
            "delete that folder, and it is prepared again"
        ) from error
    number = float if task.regression else int
    examples = [
        GlueExample(
            tuple(row[feature].decode() for feature in task.texts.values()),
            None if split.startswith("test") else number(row["label"]),
            int(row["idx"]),
        )
        for row in rows
    ]
    return sorted(examples, key=lambda example: example.row)  # TFDS shuffles what it prepares


def _look_for(url: str) -> None:
    """An OSError within seconds where there is no network, which TFDS tries to reach for minutes."""
    try:
        urllib.request.urlopen(url, timeout=20).close()
    except urllib.error.HTTPError as error:
        error.close()  # the host answers; what is wrong, TFDS will say


def _instead(task: GlueTask) -> str:
    return f"give a folder that holds {task.folder}/ with its TSV files instead"
