"""The files that hold a model's tensors: one, or several shards with an index."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.core.files import read_json


def find_files(folder: Path, single: str, index: str, shards: str) -> list[Path]:
    """The files to read; an empty list if there are none.

    As transformers does, all tensors of these files are read, wherever the index places them.

    Args:
        folder: of the model.
        single: the name of the file where there is only one.
        index: the name of the index.
        shards: the names of the shards, as a glob. They are read without an index, too, if all of them are there.

    Raises:
        UserError: the index is damaged or names a file that is not there, or shards are missing.
    """
    if (folder / single).is_file():
        return [folder / single]
    if (folder / index).is_file():
        files = _read_index(folder / index)
        missing = next((file for file in files if not file.is_file()), None)
        if missing:
            raise UserError(f"{missing}: no such file, though {index} names it")
        return files
    files = sorted(folder.glob(shards))
    count = re.search(r"-of-0*(\d+)\.", files[0].name) if files else None
    if files and (count is None or int(count[1]) != len(files)):
        raise UserError(f"{folder}: no {index}, and not all shards {shards}, but {len(files)}; fetch them again")
    return files


def check_copies(folder: Path, name: str, first: np.ndarray, second: np.ndarray) -> None:
    """Check that a tensor that two shards hold is the same in both.

    Raises:
        UserError: it is not.
    """
    if not same_bits(first, second):
        raise UserError(
            f"{folder}: two shards hold {name!r}, and they differ; transformers takes the last of them: load the model "
            "there and save it with save_pretrained, and give that folder"
        )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and bits; a NaN then equals itself."""
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _read_index(path: Path) -> list[Path]:
    """The files that an index names."""
    placed: Any = read_json(path).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(shard, str) for shard in placed.values()):
        raise UserError(f"{path}: no 'weight_map' from tensor names to files")
    for shard in placed.values():
        # Only the name is checked: in the hub's cache the files themselves are links to another folder.
        if Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise UserError(f"{path}: the shard {shard!r} is outside the folder")
    return sorted({path.parent / shard for shard in placed.values()})
