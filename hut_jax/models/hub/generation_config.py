"""A model's generation_config.json, which says among other things where its texts end."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hut_jax.core.files import read_json
from hut_jax.core.locate import locate
from hut_jax.models.config_json import Ids, read_config

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class _Fields:
    eos_token_id: Ids = None


def end_tokens(name: str | os.PathLike[str], config: Any) -> frozenset[int]:
    """The end tokens that config.json and generation_config.json name, which may be several.

    Args:
        name: the model's folder or hub name.
        config: the model's config.

    Raises:
        UserError: there is no such model, or generation_config.json is malformed.
    """
    path = locate(name, [GENERATION]) / GENERATION
    fields = read_config(_Fields, read_json(path), str(path)) if path.is_file() else _Fields()
    found: set[int] = set()
    for ends in (config.eos_token_id, fields.eos_token_id):
        found.update(() if ends is None else ends if isinstance(ends, tuple) else (ends,))
    return frozenset(found)


def copy_generation_config(name: str | os.PathLike[str], folder: Path) -> None:
    """Copy the model's file, if it has one, to a folder, in place of the one there.

    Raises:
        UserError: there is no such model.
    """
    path = locate(name, [GENERATION]) / GENERATION
    (folder / GENERATION).unlink(missing_ok=True)
    if path.is_file():
        shutil.copyfile(path, folder / GENERATION)
