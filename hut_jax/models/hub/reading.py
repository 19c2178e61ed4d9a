"""Read the tensors of a model's files. Each parameter is placed on its devices before the next is read."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import scanned
from hut_jax.core.trees import Path, split
from hut_jax.models.hub.model_files import Weights
from hut_jax.models.hub.source import Match, Source
from hut_jax.parallel.processes import put


def read_params(
    files: Weights, match: Match, source: Source, model: Any, dtype: np.dtype, shardings: Mapping[Path, Any]
) -> dict[Path, Any]:
    """The parameters that are in the files.

    Args:
        files: of the model.
        match: which of their tensors are read.
        source: of the files.
        model: the model, which tells whether layers are stacked.
        dtype: of the parameters.
        shardings: of the parameters; a parameter without one is placed on one device.

    Raises:
        UserError: two tensors that config.json ties differ.
    """
    for name, other in source.config.tensor_names().tied.items():
        if {name, other} <= match.stored.keys() and not _same(files[match.stored[name]], files[match.stored[other]]):
            raise UserError(
                f"{files.folder}: {name!r} is not {other!r}, to which config.json ties it; "
                "if they should differ, set its 'tie_word_embeddings' to false"
            )
    # A parameter is read for all layers before the next parameter, so that few stacks are unfinished at a time. The
    # largest comes first: for a moment it is in memory twice, as read and as placed.
    groups: dict[Path, list[str]] = {}
    for name, tensor in match.tensors.items():
        groups.setdefault(scanned(split(tensor.paths[0]))[0], []).append(name)

    def size(names: list[str]) -> int:
        return sum(math.prod(files.shapes[match.stored[name]]) for name in names)

    params: dict[Path, Any] = {}
    stacks: dict[Path, dict[int, np.ndarray]] = {}
    for name in itertools.chain(*sorted(groups.values(), key=size, reverse=True)):
        tensor = match.tensors[name]
        whole = files[match.stored[name]]
        whole = whole.T if tensor.transpose else whole
        for shown, piece in zip(tensor.paths, np.split(whole, len(tensor.paths), axis=-1), strict=True):
            path = split(shown)
            piece = np.ascontiguousarray(piece, dtype)
            stacked, layer = scanned(path)
            if model.scan_layers and layer is not None:
                stack = stacks.setdefault(stacked, {})
                stack[layer] = piece
                if len(stack) < model.config.n_layer:
                    continue
                path, piece = stacked, np.stack([stack[i] for i in range(len(stack))])
                del stacks[stacked]
            params[path] = put(piece, shardings.get(path))
    return params


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the bits are equal; a NaN then equals itself."""
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))
