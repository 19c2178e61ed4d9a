"""A model's folder: its config.json and its weights, safetensors or Flax msgpack. No pickle is read.

The headers are read first. Each tensor is read when it is requested.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from hut_jax.core.errors import UserError, one_line
from hut_jax.core.files import replacing_all, write_tensors
from hut_jax.core.locate import locate, refuse_gguf
from hut_jax.models.hub import flax_files
from hut_jax.models.hub.flax_files import FlaxWeights, torch_name
from hut_jax.models.hub.shards import check_copies, find_files

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
_VARIANT = re.compile(r"model\.(\w+)(-\d+-of-\d+)?\.safetensors")


class Weights(Protocol):
    """The tensors of a model's folder by name.

    Attributes:
        folder: of the files.
        shapes: each tensor's shape, from the files' headers.
        dtypes: each tensor's dtype, as safetensors names it ("F32", "BF16", ...).
    """

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor of this name."""


def locate_model(name: str | os.PathLike) -> Path:
    """The folder with config.json and weights. Of a hub name only one kind of weights is downloaded.

    Raises:
        UserError: as `locate` does.
    """
    folder = locate(name, (CONFIG, SINGLE, INDEX, SHARDS))
    if any(folder.glob("model*.safetensors")):
        return folder
    return locate(name, (CONFIG, flax_files.SINGLE, flax_files.INDEX, flax_files.SHARDS))


def open_weights(folder: Path, architecture: str = "AutoModel") -> Weights:
    """The weights of a folder. Where there are both, safetensors are read and Flax weights are not.

    Args:
        folder: of the files.
        architecture: the transformers class that can write them, for the advice in an error.

    Raises:
        UserError: there are no weights that can be read, or a file is missing or damaged.
    """
    if files := find_files(folder, SINGLE, INDEX, SHARDS):
        return _Safetensors(folder, files)
    if any(folder.glob("flax_model*.msgpack")):
        return FlaxWeights(folder)
    if files := _variant_files(folder):
        return _Safetensors(folder, files)
    convert = f"transformers: {architecture}.from_pretrained(NAME).save_pretrained(FOLDER), and give that folder"
    refuse_gguf(folder.glob("*.gguf"))
    if any(folder.glob("pytorch_model*.bin")):
        raise UserError(
            f"{folder}: only pytorch_model.bin, a pickle, which is never read here; convert it with {convert}"
        )
    # Pickles are not downloaded from the hub, so a pickle there does not show here.
    raise UserError(
        f"{folder}: neither {SINGLE} nor {INDEX} nor {flax_files.SINGLE}; an old model with pytorch_model.bin alone "
        f"is converted with {convert}"
    )


def _variant_files(folder: Path) -> list[Path]:
    """The files of the only variant that a folder has, such as `model.fp16.safetensors`; an empty list if it has none.

    Raises:
        UserError: there are several.
    """
    found = sorted({match[1] for path in folder.iterdir() if (match := _VARIANT.fullmatch(path.name))})
    if len(found) > 1:
        raise UserError(f"{folder}: no {SINGLE}, but the variants {', '.join(found)}; keep the files of one of them")
    return [
        file
        for name in found
        for file in find_files(
            folder, f"model.{name}.safetensors", f"model.safetensors.index.{name}.json", f"model.{name}-*.safetensors"
        )
    ]


class _Safetensors:
    """The tensors of safetensors files, which transformers' Flax classes write under Flax's names."""

    def __init__(self, folder: Path, paths: list[Path]):
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._files: dict[str, tuple[Any, str, bool]] = {}
        for path in paths:
            file = _open(path)
            for stored in file.keys():  # noqa: SIM118, it is no dict
                name, flip = torch_name(tuple(stored.split(".")))
                if name in self._files:
                    earlier, there, _ = self._files[name]
                    check_copies(folder, name, earlier.get_tensor(there), file.get_tensor(stored))
                header = file.get_slice(stored)
                shape = tuple(header.get_shape())
                self.shapes[name] = shape[::-1] if flip else shape
                self.dtypes[name] = header.get_dtype()
                self._files[name] = file, stored, flip

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored, flip = self._files[name]
        whole = file.get_tensor(stored)
        return whole.T if flip else whole


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        reason = one_line(error)
        size = path.stat().st_size
        raise UserError(f"{path}: {size} bytes, not a whole safetensors file ({reason}); fetch it again") from None


def write(folder: Path, config: Mapping, tensors: Mapping[str, np.ndarray]) -> None:
    """Write config.json and model.safetensors; each appears whole or not at all.

    Raises:
        UserError: the folder cannot be made, or the tensors cannot be written.
    """
    with replacing_all(folder, [SINGLE, CONFIG]) as (new_tensors, new_config):
        try:
            write_tensors(new_tensors, tensors, {"format": "pt"})  # transformers asks for this key
        except SafetensorError as error:
            raise UserError(f"the model could not be written to {folder}: {one_line(error)}") from None
        new_config.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def listing(names: Iterable[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
