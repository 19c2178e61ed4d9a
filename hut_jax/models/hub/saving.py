"""Save a model in a folder that transformers reads."""

import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.scanned_layers import scanned
from hut_jax.core.trees import Path, flatten, show, split
from hut_jax.interop.tied import with_own_head
from hut_jax.models.hub import model_files
from hut_jax.models.hub.families import FAMILIES
from hut_jax.models.hub.source import shapes_of


def save_pretrained(folder: str | os.PathLike, model: Any, params: Mapping[str, Any], *, dtype: Any = None) -> None:
    """Write config.json and model.safetensors as transformers writes and reads them.

    Each file appears whole or not at all. Loading them gives the same bits. If the config ties the head to the token
    embedding and the parameters have a kernel for the head all the same, the files are those of an untied model.

    Args:
        folder: the folder; it is made if it does not exist.
        model: a model as from `load_pretrained`.
        params: the model's parameters.
        dtype: the dtype in the file; default: each parameter's own.

    Raises:
        UserError: `params` are not those of `model`, or the folder cannot be made.
    """
    leaves = flatten(params)
    model = with_own_head(model, leaves)
    config = model.config
    family = FAMILIES[config.model_type]
    _check(leaves, shapes_of(model))
    tensors = {}
    for tensor in config.tensor_names().tensors:
        pieces = [_leaf(leaves, split(path), model.scan_layers) for path in tensor.paths]
        whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        whole = whole.T if tensor.transpose else whole
        for name in (tensor.name, *([tensor.also] if tensor.also else [])):
            tensors[name] = np.asarray(whole, None if dtype is None else np.dtype(dtype), order="C")
    written = next(iter(tensors.values())).dtype.name
    architecture = next(name for name, head in family.heads.items() if head == config.head)
    values = {**config.to_json(), "architectures": [architecture], "dtype": written}
    model_files.write(FilePath(folder).expanduser(), values, tensors)


def _check(leaves: Mapping[Path, Any], shapes: Mapping[Path, tuple[int, ...]]) -> None:
    for path in sorted(shapes) + sorted(leaves):
        name = show(path)
        if path not in leaves:
            raise UserError(f"params have no {name!r}; {nearest(name, map(show, leaves))}")
        if path not in shapes:
            raise UserError(f"params have {name!r}, which the model does not have; {nearest(name, map(show, shapes))}")
        if leaves[path].shape != shapes[path]:
            raise UserError(f"params: {name!r} is {list(leaves[path].shape)}, not {list(shapes[path])}")


def _leaf(leaves: Mapping[Path, Any], path: Path, scan_layers: bool) -> np.ndarray:
    stacked, layer = scanned(path)
    if layer is None or not scan_layers:
        return np.asarray(leaves[path])
    return np.asarray(leaves[stacked][layer])
