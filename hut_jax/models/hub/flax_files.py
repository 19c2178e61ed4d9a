"""Flax weights: flax_model.msgpack, as transformers 4's Flax classes wrote it, single or in shards. No pickle is read.

The tensors appear under the names, and in the layouts, that they have in a safetensors file. The files are mapped into
memory and their headers read first. A tensor is copied when it is requested, so no more than one is in memory twice.
"""

import mmap
from pathlib import Path

import numpy as np

from hut_jax.core import trees
from hut_jax.core.errors import UserError
from hut_jax.models.hub.msgpack_arrays import Stored, find_arrays
from hut_jax.models.hub.shards import check_copies, find_files

SINGLE = "flax_model.msgpack"
INDEX = "flax_model.msgpack.index.json"
SHARDS = "flax_model-*-of-*.msgpack"

_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class FlaxWeights:
    """The tensors of a folder of Flax weights; see `model_files.Weights`."""

    def __init__(self, folder: Path):
        """Read the headers.

        Raises:
            UserError: a file is missing or damaged.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._arrays: dict[str, tuple[mmap.mmap, Stored, bool]] = {}
        for path in find_files(folder, SINGLE, INDEX, SHARDS):
            data, arrays = _open(path)
            for leaf, stored in arrays.items():
                name, flip = torch_name(leaf)
                if name in self._arrays:
                    earlier, there, _ = self._arrays[name]
                    check_copies(folder, name, there.read(earlier), stored.read(data))
                self.shapes[name] = stored.shape[::-1] if flip else stored.shape
                self.dtypes[name] = _DTYPES.get(stored.dtype, stored.dtype)
                self._arrays[name] = data, stored, flip

    def __getitem__(self, name: str) -> np.ndarray:
        data, stored, flip = self._arrays[name]
        whole = stored.read(data)
        return whole.T if flip else whole


def torch_name(path: trees.Path) -> tuple[str, bool]:
    """The name that torch has for the tensor at this path, and whether the tensor is transposed there.

    Flax keeps `[in, out]` and torch's Linear `[out, in]`. GPT-2's Conv1D is the other way round in both.
    """
    *modules, leaf = path
    return ".".join([*modules, _LEAVES.get(leaf, leaf)]), leaf == "kernel"


def _open(path: Path) -> tuple[mmap.mmap, dict[trees.Path, Stored]]:
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return data, find_arrays(data)
    except ValueError as error:  # an empty file cannot be mapped
        raise UserError(f"{path}: {size} bytes, not a whole Flax msgpack file ({error}); fetch it again") from None
