"""Hugging Face checkpoints <-> models and parameter trees."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hut_jax.errors import UserError, nearest
from hut_jax.models import weights
from hut_jax.models.families import FAMILIES, Family, Tensor
from hut_jax.models.hub import locate
from hut_jax.stacking import scanned
from hut_jax.models.weights import Weights, listing

Params = Mapping[str, Any]
Model = Any  # a Linen module of one of FAMILIES' classes

_FLOATS = ("F64", "F32", "F16", "BF16")


def load_pretrained(
    name: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    remat: bool = False,
    scan_layers: bool = False,
) -> tuple[Model, dict[str, Any]]:
    """The model of a Hugging Face checkpoint and its parameters.

    Tensors are read one by one, so that the model is in memory once.

    Args:
        name: a folder, or a hub name such as `gpt2`, whose safetensors files are then downloaded or taken from
            the cache. Pickled files (`pytorch_model.bin`) are never read.
        dtype: of the parameters, and what the model computes in.
        remat: whether activations are computed again in the backward pass, not kept.
        scan_layers: whether the layers are one `nn.scan`; their parameters are then stacked.

    Raises:
        UserError: nothing of that name, a config.json that is not supported, or files damaged or not of the
            config's shapes.
    """
    folder = locate(name, ("config.json", *weights.PATTERNS))
    family, config = _read_config(folder)
    model = family.model(config=config, dtype=dtype, remat=remat, scan_layers=scan_layers)
    return model, _read_params(Weights(folder), family, model, np.dtype(dtype))


def load_config(name: str | os.PathLike) -> Any:
    """The config of a folder or hub name; the class is its family's.

    Raises:
        UserError: nothing of that name, or a config.json that is not supported.
    """
    return _read_config(locate(name, ("config.json",)))[1]


def build_model(
    name: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    remat: bool = False,
    scan_layers: bool = False,
) -> Model:
    """The model that a folder's or hub name's config.json describes, without its weights.

    Arguments and errors are those of `load_pretrained`. For its parameters see `init_params`.
    """
    family, config = _read_config(locate(name, ("config.json",)))
    return family.model(config=config, dtype=dtype, remat=remat, scan_layers=scan_layers)


def init_params(model: Model, key: jax.Array, *, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Random parameters, drawn as the model's authors drew them."""

    def init(key):
        params = model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    return jax.jit(init)(key)


def save_pretrained(folder: str | os.PathLike, model: Model, params: Params, *, dtype: Any = None) -> None:
    """Writes config.json and model.safetensors as transformers writes and reads them.

    Each file appears whole or not at all. Loading them gives the same bits.

    Args:
        folder: made where it does not exist.
        model: as from `load_pretrained`.
        params: its parameters.
        dtype: to write; default: that of each parameter.

    Raises:
        UserError: `params` are not those of `model`, or the folder cannot be made.
    """
    config = model.config
    family = next(family for family in FAMILIES.values() if family.config is type(config))
    leaves = flatten_dict(params, sep="/")
    _check_params(leaves, model)
    tensors = {}
    for tensor in family.tensors(config):
        pieces = [_take(leaves, path, model) for path in tensor.paths]
        whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        whole = whole.T if tensor.transpose else whole
        tensors[tensor.name] = np.ascontiguousarray(whole, None if dtype is None else np.dtype(dtype))
    written = next(iter(tensors.values())).dtype.name
    values = {**config.to_json(), "architectures": [family.architecture], "dtype": written}
    weights.write(Path(folder).expanduser(), values, tensors)


def _read_config(folder: Path) -> tuple[Family, Any]:
    path = folder / "config.json"
    values = weights.read_json(path)
    kind = values.get("model_type")
    if kind not in FAMILIES:
        found = "no 'model_type'" if kind is None else f"model_type {kind!r} is not supported"
        raise UserError(f"{path}: {found}; {nearest(str(kind), FAMILIES)}")
    return FAMILIES[kind], FAMILIES[kind].config.from_json(values, where=str(path))


def _read_params(files: Weights, family: Family, model: Model, dtype: np.dtype) -> dict[str, Any]:
    config = model.config
    tensors = {tensor.name: tensor for tensor in family.tensors(config)}
    tied = family.tied(config)
    stored = _match(files, family, tensors, tied, model)
    for name, other in tied.items():
        if name in stored and not _same(files[stored[name]], files[stored[other]]):
            raise UserError(
                f"{files.folder}: {name!r} is not {other!r}, to which config.json ties it; "
                "where they should differ, set its 'tie_word_embeddings' to false"
            )
    leaves: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        whole = files[stored[name]]
        whole = whole.T if tensor.transpose else whole
        for path, piece in zip(tensor.paths, np.split(whole, len(tensor.paths), axis=-1), strict=True):
            _put(leaves, path, np.ascontiguousarray(piece, dtype), model)
    # One by one, so that no second copy of the whole is ever held.
    return unflatten_dict({path: jnp.asarray(leaves.pop(path)) for path in list(leaves)}, sep="/")


def _match(
    files: Weights,
    family: Family,
    tensors: Mapping[str, Tensor],
    tied: Mapping[str, str],
    model: Model,
) -> dict[str, str]:
    """Each wanted tensor's name in the files, once all are known to be there, of the right shape and dtype."""
    ours = _shapes(model.clone(scan_layers=False))
    shapes = {name: _their_shape(tensor, ours) for name, tensor in tensors.items()}
    shapes.update({name: shapes[other] for name, other in tied.items()})
    stored: dict[str, str] = {}
    unknown = []
    for name in files.shapes:
        full = name if name in shapes else family.prefix + name
        if full in shapes and full not in stored:
            stored[full] = name
        elif not family.dropped.fullmatch(name.removeprefix(family.prefix)):
            unknown.append(name)
    missing = [name for name in tensors if name not in stored]
    misshapen = [
        f"{name} {list(files.shapes[there])}, not {list(shapes[name])}"
        for name, there in stored.items()
        if files.shapes[there] != shapes[name]
    ]
    odd = [f"{there} {files.dtypes[there]}" for there in stored.values() if files.dtypes[there] not in _FLOATS]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen, "no floats": odd}
    found = [f"{len(names)} {what}: {listing(names)}" for what, names in faults.items() if names]
    if found:
        raise UserError(f"{files.folder}: its tensors are not those of its config.json: {'; '.join(found)}")
    return stored


def _their_shape(tensor: Tensor, ours: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    *rest, last = ours[tensor.paths[0]]
    shape = (*rest, last * len(tensor.paths))
    return shape[::-1] if tensor.transpose else shape


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the bits are; NaN equals itself."""
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


def _check_params(leaves: Mapping[str, Any], model: Model) -> None:
    wanted = _shapes(model)
    for path in sorted(wanted) + sorted(leaves):
        if path not in leaves:
            raise UserError(f"params have no {path!r}; {nearest(path, leaves)}")
        if path not in wanted:
            raise UserError(f"params have {path!r}, which is none of the model's; {nearest(path, wanted)}")
        if leaves[path].shape != wanted[path]:
            raise UserError(f"params: {path!r} is {list(leaves[path].shape)}, not {list(wanted[path])}")


def _put(leaves: dict[str, np.ndarray], path: str, piece: np.ndarray, model: Model) -> None:
    place, depth = scanned(path)
    if depth is None or not model.scan_layers:
        leaves[path] = piece
        return
    if place not in leaves:
        leaves[place] = np.empty((model.config.n_layer, *piece.shape), piece.dtype)
    leaves[place][depth] = piece


def _take(leaves: Mapping[str, Any], path: str, model: Model) -> np.ndarray:
    place, depth = scanned(path)
    if depth is None or not model.scan_layers:
        return np.asarray(leaves[path])
    return np.asarray(leaves[place][depth])
