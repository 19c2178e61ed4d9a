"""Tensors that PEFT's files hold whole, or some rows of; ours are deviations from the base, `also_train`.

PEFT's files have whole tensors for `modules_to_save`, for biases that train (`bias`), and for embeddings that were
resized. Rows are those of `trainable_token_indices`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hut_jax.core.errors import UserError, nearest
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layers
from hut_jax.interop.methods.base import Arrays, Part

CLASSIFIER = "classifier"
"""The head of sequence classification, which PEFT always saves whole."""


class Rows(NamedTuple):
    """Some rows of a tensor, as torch keeps it."""

    indices: tuple[int, ...]
    values: np.ndarray


def named(whole: Mapping[str, np.ndarray], layers: Layers) -> Arrays:
    """The whole tensors of a file by their full names.

    Args:
        whole: tensors by the names in the file, without PEFT's own parts.
        layers: of the model.

    Raises:
        UserError: a tensor is not one of the model's, is there twice or has another shape.
    """
    tensors: Arrays = {}
    for key, tensor in whole.items():
        name = layers.name(key)
        if name is None:
            raise UserError(f"{key!r} is not a tensor of this model or adapter; {nearest(key, layers.tensors)}")
        if name in tensors:
            raise UserError(f"{key!r} is there twice, with and without the prefix of the model's body")
        base = layers.value(name)
        if tensor.shape != base.shape:
            raise UserError(
                f"{key!r} is {list(tensor.shape)}, and the model's is {list(base.shape)}{_resize(tensor, base)}"
            )
        tensors[name] = tensor
    return tensors


def token_rows(given: Mapping[str, np.ndarray], fields: Fields, layers: Layers) -> dict[str, Rows]:
    """The rows of a file by the full names of their tensors, with the indices that the fields give.

    Args:
        given: the rows by the module's name in the file.
        fields: of the adapter.
        layers: of the model.

    Raises:
        UserError: the indices are not those of these rows, or the model has no such tensor.
    """
    spelled = fields.raw("trainable_token_indices") or fields.raw("token_indices")
    rows = {}
    for module, values in given.items():
        name, own = layers.name(f"{module}.weight"), spelled
        if name is None:
            raise UserError(f"{module} is not a module of this model; {nearest(f'{module}.weight', layers.tensors)}")
        if isinstance(spelled, dict):
            own = next((ids for ending, ids in spelled.items() if module.endswith(ending)), None)
        base = layers.value(name)
        whole_numbers = isinstance(own, list) and all(type(one) is int and 0 <= one < base.shape[0] for one in own)
        if not whole_numbers or len(set(own)) != len(own) or values.shape != (len(own), *base.shape[1:]):
            raise UserError(
                f"the token indices of {module} are {own!r}; its rows are {list(values.shape)}, and the tensor is "
                f"{list(base.shape)}"
            )
        rows[name] = Rows(tuple(own), values)
    return rows


def unused_biases(names: Collection[str], layers: Layers) -> list[str]:
    """The biases of heads that PEFT leaves out, since rows of the heads' kernels train.

    PEFT 0.21 computes `x @ W` then, without the bias of a masked-LM head. It trains so, and so we read it.

    Args:
        names: of the tensors whose rows train.
        layers: of the model.
    """
    heads = [*names, *(head for head, table in layers.tied.items() if table in names)]
    biases = {f"{_module(head)}.bias" for head in heads}
    return [name for name in layers.tensors if name in {layers.equal.get(bias, bias) for bias in biases}]


def read_whole(
    tensors: Mapping[str, np.ndarray], rows: Mapping[str, Rows], entries: Sequence[str], layers: Layers
) -> list[Part]:
    """The deviations of our parameters: of all that `modules_to_save` names, and of all else that differs.

    Args:
        tensors: by their full names.
        rows: by their tensor's full name.
        entries: `modules_to_save`.
        layers: of the model.

    Raises:
        UserError: a tensor that `modules_to_save` names is missing.
    """
    values = {name: tensor for name, tensor in tensors.items() if name in layers.tensors}
    for name, other in layers.equal.items():
        if name in tensors:
            values.setdefault(other, tensors[name])
    for name in layers.tensors:
        if saved(name, entries) and name not in values:
            raise UserError(f"modules_to_save names {name!r}, but the file does not have it")
    values |= {name: np.zeros_like(layers.value(name)) for name in unused_biases(rows, layers)}
    kept = {name for name in values if saved(name, entries) or not same(values[name], layers.value(name))}
    parts = []
    for name in (name for name in layers.tensors if name in kept or name in rows):
        base = layers.value(name).astype(np.float32)
        whole = values[name].astype(np.float32) if name in kept else base.copy()
        if name in rows:
            whole[list(rows[name].indices)] = rows[name].values
        parts += [Part(path, {"d": d}) for path, d in layers.split(name, whole - base).items()]
    return parts


class Whole(NamedTuple):
    """What is written whole.

    Attributes:
        modules: for `modules_to_save`.
        tensors: by name.
        bias: which biases train, by PEFT's name for them.
    """

    modules: list[str]
    tensors: Arrays
    bias: str


def write_whole(deviations: Mapping[str, np.ndarray], layers: Layers, targets: Sequence[str] = ()) -> Whole:
    """The modules to save and all of their tensors, and biases beside factors.

    PEFT reads whole modules, so a module's untrained tensors are written with the base's values. Tensors tied to a
    trained one are written too, since PEFT's copy of a module is no longer tied. If a target's bias trains, all biases
    that train without their weights are written as biases. A bias with two names is written with the smaller module, if
    the larger one has a target.

    Args:
        deviations: of the trained parameters, by path.
        layers: of the model.
        targets: the modules that have factors.
    """

    def trained(name: str) -> bool:
        return any(path in deviations for path in layers.tensors[layers.equal.get(name, name)].paths)

    names = [*layers.tensors, *layers.equal]
    changed = {name for name in names if trained(name)}
    biases = [name for name in layers.tensors if name in changed and name.endswith(".bias")]
    alone = [name for name in biases if f"{_module(name)}.weight" not in changed]
    beside = [name for name in alone if _module(name) in targets]
    alone = alone if beside else []
    tensors = {
        f"{_module(name)}.base_layer.bias" if name in beside else name: whole_tensor(name, deviations, layers)
        for name in alone
    }
    changed -= {*alone, *(name for name, other in layers.equal.items() if other in alone)}
    with_targets = {name for name in changed if any(inside(target, [_module(name)]) for target in targets)}
    modules = {_inner_module(name, layers) if name in with_targets else _module(name) for name in changed}
    head = {name for name in names if inside(name, [CLASSIFIER])}
    if head and head <= changed:
        modules.add(CLASSIFIER)
    tops = [module for module in sorted(modules) if not any(module.startswith(f"{other}.") for other in modules)]
    tensors |= {name: whole_tensor(name, deviations, layers) for name in names if inside(name, tops)}
    return Whole(tops, tensors, "none" if not beside else "lora_only" if alone == beside else "all")


def module_of(path: str, layers: Layers) -> str:
    """The module in transformers of our parameter at this path."""
    return _inner_module(next(name for name, tensor in layers.tensors.items() if path in tensor.paths), layers)


def whole_tensor(name: str, deviations: Mapping[str, np.ndarray], layers: Layers) -> np.ndarray:
    """A tensor of the base, laid out as in transformers, with the deviations of our parameters, by path."""
    tensor = layers.tensors[layers.equal.get(name, name)]
    pieces = []
    for path in tensor.paths:
        piece = layers.parameter(path).astype(np.float32)
        pieces.append(piece + deviations[path] if path in deviations else piece)
    whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
    return whole.T if tensor.transpose else whole


def inside(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor or module is in one of these modules."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def saved(name: str, entries: Sequence[str]) -> bool:
    """Whether PEFT saves the tensor.

    It does if the name of a module around the tensor ends with one of the entries.
    """
    parts = name.split(".")[:-1]
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(module.endswith(entry) for module in modules for entry in entries)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the values are equal in the coarser of the two dtypes."""
    coarser = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return np.array_equal(a.astype(coarser), b.astype(coarser))


def _resize(tensor: np.ndarray, base: np.ndarray) -> str:
    """What to do if tokens were added before the training."""
    if tensor.ndim != 2 or tensor.shape[1:] != base.shape[1:]:
        return ""
    return (
        f"; if tokens were added, load a base with as many: in transformers, resize_token_embeddings({len(tensor)}) "
        "and save_pretrained"
    )


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _inner_module(name: str, layers: Layers) -> str:
    """The module of a tensor; of a bias with two names, the inner one of its modules."""
    first = layers.equal.get(name, name)
    names = [first, *(other for other, one in layers.equal.items() if one == first)]
    return next((_module(one) for one in names if one != name and inside(one, [_module(name)])), _module(name))
