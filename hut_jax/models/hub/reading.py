"""Read the tensors of a model's files. Each parameter is placed on its devices before the next is read."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import scanned
from hut_jax.core.trees import Path, split
from hut_jax.models.hub.model_files import Weights
from hut_jax.models.hub.shards import same_bits
from hut_jax.models.hub.source import Match
from hut_jax.parallel.processes import put


def read_params(
    files: Weights,
    match: Match,
    model: Any,
    dtype: np.dtype,
    shardings: Mapping[Path, Any],
    report: Callable[[str], None],
) -> dict[Path, Any]:
    """The parameters that are in the files.

    Args:
        files: of the model.
        match: which of their tensors are read.
        model: the model, which tells whether layers are stacked.
        dtype: of the parameters.
        shardings: of the parameters; a parameter without one is placed on one device.
        report: called with a line on two biases that config.json ties and that differ.

    Raises:
        UserError: two tensors that config.json ties differ.
    """
    stored = dict(match.stored)
    for name, other in match.tied.items():
        if same_bits(files[stored[name]], files[other]):
            continue
        if not name.endswith(".bias"):
            raise UserError(
                f"{files.folder}: {other!r} is not {stored[name]!r}, to which config.json ties it; "
                "if they should differ, set its 'tie_word_embeddings' to false"
            )
        report(f"{files.folder}: {stored[name]!r} and {other!r} differ; as in transformers 5, the second is used")
        stored[name] = other
    # A parameter is read for all layers before the next parameter, so that few stacks are unfinished at a time. The
    # largest comes first: for a moment it is in memory twice, as read and as placed.
    groups: dict[Path, list[str]] = {}
    for name, tensor in match.tensors.items():
        groups.setdefault(scanned(split(tensor.paths[0]))[0], []).append(name)

    def size(names: list[str]) -> int:
        return sum(math.prod(files.shapes[stored[name]]) for name in names)

    params: dict[Path, Any] = {}
    stacks: dict[Path, dict[int, np.ndarray]] = {}
    for name in itertools.chain(*sorted(groups.values(), key=size, reverse=True)):
        tensor = match.tensors[name]
        whole = files[stored[name]]
        whole = whole.T if tensor.transpose else whole
        for shown, piece in zip(tensor.paths, tensor.split(whole), strict=True):
            path = split(shown)
            piece = np.asarray(piece, dtype, order="C")
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
