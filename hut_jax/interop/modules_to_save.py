"""Modules that train in full: PEFT's `modules_to_save`, which are whole, and our `also_train`, which are deviations."""

from collections.abc import Mapping, Sequence

import numpy as np

from hut_jax.core.errors import UserError, nearest
from hut_jax.interop.adapter_config import MERGE_THERE
from hut_jax.interop.layers import Layers
from hut_jax.interop.method import Arrays, Part

CLASSIFIER = "classifier"
"""The head of sequence classification, which PEFT always saves whole."""


def read_whole(given: Mapping[str, np.ndarray], entries: Sequence[str], layers: Layers) -> list[Part]:
    """The deviations of our parameters in all modules that `modules_to_save` names.

    Args:
        given: tensors by the names in the file, without PEFT's prefix.
        entries: `modules_to_save`.
        layers: of the model.

    Raises:
        UserError: a tensor is not one of the model's, is there twice, has another shape or is missing; or it differs
            from the base and `modules_to_save` does not name it; or the model ties two tensors, and their values
            differ.
    """
    tensors: Arrays = {}
    for key, tensor in given.items():
        name = layers.name(key.replace(".base_layer.", "."))
        if name is None:
            raise UserError(f"{key!r} is not a tensor of this model or adapter; {nearest(key, layers.tensors)}")
        if name in tensors:
            raise UserError(f"{key!r} is there twice, with and without the prefix of the model's body")
        base = layers.value(name)
        if tensor.shape != base.shape:
            raise UserError(f"{key!r} is {list(tensor.shape)}, and the model's is {list(base.shape)}")
        if not _saved(name, entries) and not _same(tensor, base):
            raise UserError(
                f"{key!r} differs from the base, and modules_to_save does not name it; load the base that was trained, "
                f"or {MERGE_THERE}"
            )
        tensors[name] = tensor
    for name, other in layers.equal.items():
        if name in tensors and name not in layers.tied:
            tensors.setdefault(other, tensors[name])
    for name in layers.tensors:
        if _saved(name, entries) and name not in tensors:
            raise UserError(f"modules_to_save names {name!r}, but the file does not have it")
    for name, other in layers.tied.items():
        if name in tensors or other in tensors:
            first, second = (tensors[one] if one in tensors else layers.value(one) for one in (name, other))
            if not _same(first, second):
                raise UserError(
                    f"{name!r} and {other!r} are tied in this model and differ in the adapter; load the base with "
                    f"'tie_word_embeddings': false in its config.json, or {MERGE_THERE}"
                )
    deviations = {
        name: tensors[name].astype(np.float32) - layers.value(name).astype(np.float32)
        for name in layers.tensors
        if _saved(name, entries)
    }
    return [Part(path, {"d": d}) for name, whole in deviations.items() for path, d in layers.split(name, whole).items()]


def write_whole(deviations: Mapping[str, np.ndarray], layers: Layers) -> tuple[list[str], Arrays]:
    """The modules to save, and all of their tensors by name.

    PEFT reads whole modules, so a module's untrained tensors are written with the base's values. Tensors tied to a
    trained one are written too, since PEFT's copy of a module is no longer tied.

    Args:
        deviations: of the trained parameters, by path.
        layers: of the model.
    """

    def trained(name: str) -> bool:
        return any(path in deviations for path in layers.tensors[layers.equal.get(name, name)].paths)

    names = [*layers.tensors, *layers.equal]
    changed = {name for name in names if trained(name)}
    modules = {name.rpartition(".")[0] for name in changed}
    head = {name for name in names if inside(name, [CLASSIFIER])}
    if head and head <= changed:
        modules.add(CLASSIFIER)
    tops = [module for module in sorted(modules) if not any(module.startswith(f"{other}.") for other in modules)]
    return tops, {name: _whole(name, deviations, layers) for name in names if inside(name, tops)}


def inside(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor or module is in one of these modules."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _whole(name: str, deviations: Mapping[str, np.ndarray], layers: Layers) -> np.ndarray:
    tensor = layers.tensors[layers.equal.get(name, name)]
    pieces = []
    for path in tensor.paths:
        piece = layers.parameter(path).astype(np.float32)
        pieces.append(piece + deviations[path] if path in deviations else piece)
    whole = np.concatenate(pieces, axis=-1)
    return whole.T if tensor.transpose else whole


def _saved(name: str, entries: Sequence[str]) -> bool:
    """Whether PEFT saves the tensor.

    It does if the name of a module around the tensor ends with one of the entries.
    """
    parts = name.split(".")[:-1]
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(module.endswith(entry) for module in modules for entry in entries)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the values are equal in the coarser of the two dtypes."""
    coarser = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return np.array_equal(a.astype(coarser), b.astype(coarser))
