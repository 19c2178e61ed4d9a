"""A model's folder: its config.json, and its safetensors files, single or in shards. No pickle is read.

The headers are read first. Each tensor is read when it is requested.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from hut_jax.core.errors import UserError, one_line
from hut_jax.core.files import read_json, replacing_all, write_tensors

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATTERNS = (CONFIG, SINGLE, INDEX, "model-*-of-*.safetensors")
"""The files to download."""


class Weights:
    """The tensors of a model's folder by name.

    Attributes:
        folder: of the files.
        shapes: each tensor's shape, from the files' headers.
        dtypes: each tensor's dtype, as safetensors names it ("F32", "BF16", ...).
    """

    def __init__(self, folder: Path, architecture: str = "AutoModel"):
        """Read the headers.

        Args:
            folder: of the files.
            architecture: the transformers class that can write them, for the advice in an error.

        Raises:
            UserError: there are no safetensors files, or one is missing, damaged or contradicts the index.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._files = {}
        promised = None if (folder / SINGLE).is_file() else _read_index(folder, architecture)
        for path in [folder / SINGLE] if promised is None else sorted({*promised.values()}):
            file = _open(path)
            names: list[str] = file.keys()
            for name in names:
                if promised is not None and promised.get(name) != path:
                    raise UserError(f"{path}: holds {name!r}, which {INDEX} does not place there")
                header = file.get_slice(name)
                self.shapes[name] = tuple(header.get_shape())
                self.dtypes[name] = header.get_dtype()
                self._files[name] = file
        lost = sorted(set(promised or ()) - set(self.shapes))
        if lost:
            raise UserError(f"{folder / INDEX}: names {listing(lost)}, which the shards do not hold")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)


def _open(path: Path):
    if not path.is_file():
        raise UserError(f"{path}: no such file, though {INDEX} names it")
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        reason = one_line(error)
        size = path.stat().st_size
        raise UserError(f"{path}: {size} bytes, not a whole safetensors file ({reason}); fetch it again") from None


def _read_index(folder: Path, architecture: str) -> dict[str, Path]:
    """Each tensor's file, from model.safetensors.index.json."""
    path = folder / INDEX
    if not path.is_file():
        convert = f"transformers: {architecture}.from_pretrained(NAME).save_pretrained(FOLDER), and give that folder"
        if any(folder.glob("pytorch_model*.bin")):
            raise UserError(
                f"{folder}: only pytorch_model.bin, a pickle, which is never read here; convert it with {convert}"
            )
        # Pickles are not downloaded from the hub, so a pickle there does not show here.
        raise UserError(
            f"{folder}: neither {SINGLE} nor {INDEX}; an old model with pytorch_model.bin alone is converted with "
            f"{convert}"
        )
    placed = read_json(path).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(shard, str) for shard in placed.values()):
        raise UserError(f"{path}: no 'weight_map' from tensor names to files")
    for shard in placed.values():
        # Only the name is checked: in the hub's cache the files themselves are links to another folder.
        if Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise UserError(f"{path}: the shard {shard!r} is outside the folder")
    return {name: folder / shard for name, shard in placed.items()}


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
