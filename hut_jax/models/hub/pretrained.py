"""Hugging Face checkpoints <-> models and parameter trees."""

import functools
import itertools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import read_json
from hut_jax.core.scanned_layers import scanned
from hut_jax.core.trees import show, split
from hut_jax.interop.tensors import Tensor
from hut_jax.models.hub import model_files
from hut_jax.models.hub.families import FAMILIES, Family
from hut_jax.models.hub.heads import Asked, drawable, stored_head, with_head
from hut_jax.models.hub.locate import locate
from hut_jax.models.hub.model_files import Weights, listing
from hut_jax.parallel.processes import put

Params = Mapping[str, Any]
Model = Any  # a Linen module of one of FAMILIES' classes

_log = logging.getLogger(__name__)
_FLOATS = ("F64", "F32", "F16", "BF16")


def load_pretrained(
    name: str | os.PathLike,
    *,
    head: str | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    key: jax.Array | None = None,
    draw: bool = True,
    report: Callable[[str], None] = _log.warning,
    dtype: Any = jnp.float32,
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "xla",
    shardings: Mapping[str, Any] | None = None,
) -> tuple[Model, dict[str, Any]]:
    """The model of a Hugging Face checkpoint and its parameters.

    Tensors are read one by one, so that the model is in memory once. Where another head is asked for than the
    checkpoint has, what that head shares with it is read, and the rest of it drawn as the model's authors drew it.

    Args:
        name: a folder, or a hub name such as `gpt2`, whose safetensors files are then downloaded or taken from
            the cache. Pickled files (`pytorch_model.bin`) are never read.
        head: for RoBERTa and BERT: "classification", "mlm" or "none". Default: what config.json's `architectures`
            name.
        num_labels: how many outputs the classification head has; default: as in config.json. Where that has another
            number, the output layer is drawn.
        labels: their names; default: as in config.json, or with another `num_labels` LABEL_0, LABEL_1, ...
        problem_type: "regression", "single_label_classification" or "multi_label_classification", kept in the
            config; default: as in config.json.
        key: what is drawn is drawn with it; default: `jax.random.key(0)`.
        draw: whether to draw it; False sets it to zero, for an adapter that holds all of it (`also_train`).
        report: called with a line on the parameters that the files lack, and one on the tensors of other heads that
            were left out, if there are any. Default: a logged warning.
        dtype: of the parameters, and what the model computes in.
        remat: what the backward pass computes again of each layer, not to keep it: "none", "dots" or "full".
        scan_layers: whether the layers are one `nn.scan`; their parameters are then stacked.
        attention: "xla" or "cudnn".
        shardings: where each parameter is to lie: a tree of `jax.sharding.Sharding`s like the parameters'. Each is put
            there as it is read. Default: all of them on one device.

    Raises:
        UserError: nothing of that name, a config.json that is not supported, a head, labels or attention that the model
            cannot have, no such `remat`, or files damaged or not of the config's shapes.
    """
    folder = locate(name, model_files.PATTERNS)
    source = _read_config(folder, Asked(head, num_labels, labels, problem_type))
    model = source.family.model(
        config=source.config, dtype=dtype, remat=remat, scan_layers=scan_layers, attention=attention
    )
    files = Weights(folder, source.architecture)
    match = _match(files, source)
    where = {} if shardings is None else flatten_dict(shardings, sep="/")
    params = _read_params(files, match, source, model, np.dtype(dtype), where)
    if match.drawn:
        key = jax.random.key(0) if key is None else key
        new = _draw(model, key, match.drawn, dtype)
        new = new if draw else {path: jnp.zeros_like(leaf) for path, leaf in new.items()}
        params.update({path: put(np.asarray(leaf), where.get(path)) for path, leaf in new.items()})
        how = "drawn at random" if draw else "set to zero"
        report(f"{folder}: {how}, since the files have none that fit: {listing(match.drawn)}")
    if match.left_out:
        report(f"{folder}: left out, since head {model.config.head!r} has no use for them: {listing(match.left_out)}")
    return model, unflatten_dict(params, sep="/")


def missing_params(
    name: str | os.PathLike,
    *,
    head: str | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> list[str]:
    """The '/'-joined paths of the parameters that a checkpoint lacks for the head asked for. Only headers are read.

    Arguments and errors are those of `load_pretrained`.
    """
    folder = locate(name, model_files.PATTERNS)
    source = _read_config(folder, Asked(head, num_labels, labels, problem_type))
    return _match(Weights(folder, source.architecture), source).drawn


def load_config(name: str | os.PathLike) -> Any:
    """The config of a folder or hub name; the class is its family's.

    Raises:
        UserError: nothing of that name, or a config.json that is not supported.
    """
    return _read_config(locate(name, (model_files.CONFIG,)), Asked()).config


def build_model(
    name: str | os.PathLike,
    *,
    head: str | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    dtype: Any = jnp.float32,
    remat: str = "none",
    scan_layers: bool = False,
    attention: str = "xla",
) -> Model:
    """The model that a folder's or hub name's config.json describes, without its weights.

    Arguments and errors are those of `load_pretrained`. For its parameters see `init_params`.
    """
    source = _read_config(locate(name, (model_files.CONFIG,)), Asked(head, num_labels, labels, problem_type))
    return source.family.model(
        config=source.config, dtype=dtype, remat=remat, scan_layers=scan_layers, attention=attention
    )


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
    family = FAMILIES[config.model_type]
    leaves = flatten_dict(params, sep="/")
    _check_params(leaves, model)
    tensors = {}
    for tensor in config.tensor_names().tensors:
        pieces = [_take(leaves, path, model) for path in tensor.paths]
        whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        whole = whole.T if tensor.transpose else whole
        for name in (tensor.name, *([tensor.also] if tensor.also else [])):
            tensors[name] = np.ascontiguousarray(whole, None if dtype is None else np.dtype(dtype))
    written = next(iter(tensors.values())).dtype.name
    architecture = next(name for name, head in family.heads.items() if head == config.head)
    values = {**config.to_json(), "architectures": [architecture], "dtype": written}
    model_files.write(Path(folder).expanduser(), values, tensors)


class _Source(NamedTuple):
    """What a folder's config.json says, and what the caller makes of it."""

    family: Family
    config: Any  # with the head asked for
    stored: Any  # without
    head: str | None  # the files'; None where it is not one of the family's
    architecture: str


def _read_config(folder: Path, asked: Asked) -> _Source:
    path = folder / "config.json"
    values = read_json(path)
    kind = values.get("model_type")
    if kind not in FAMILIES:
        found = "no 'model_type'" if kind is None else f"model_type {kind!r} is not supported"
        raise UserError(f"{path}: {found}; {nearest(str(kind), FAMILIES)}")
    family = FAMILIES[kind]
    stored = family.config.from_json(values, where=str(path))
    config = with_head(family, stored, values, asked, where=str(path))
    architecture = (values.get("architectures") or list(family.heads))[0]
    return _Source(family, config, stored, stored_head(family, values), architecture)


class _Match(NamedTuple):
    """What is read from where.

    Attributes:
        tensors: name -> what is read under it.
        stored: name -> the name in the files.
        drawn: our parameters that the files do not have.
        left_out: the files' tensors that belong to another head.
    """

    tensors: Mapping[str, Tensor]
    stored: Mapping[str, str]
    drawn: list[str]
    left_out: list[str]


def _match(files: Weights, source: _Source) -> _Match:
    """Which tensors are read, once all are known to be there, of the right shape and dtype."""
    family, config = source.family, source.config
    ours = _shapes(family.model(config=config))
    names = config.tensor_names()
    tensors = {tensor.name: tensor for tensor in names.tensors}
    shapes = {name: _their_shape(tensor, ours) for name, tensor in tensors.items()}
    shapes.update({name: shapes[other] for name, other in names.tied.items()})
    wanted = {names.bare(name): name for name in shapes}
    also = {tensor.also: name for name, tensor in tensors.items() if tensor.also}

    stored: dict[str, str] = {}
    unknown, left_out = [], []
    for name in sorted(files.shapes, key=lambda name: name in also):  # so that the first name goes before the other
        bare = names.bare(family.today(name))
        full = wanted.get(bare) or also.get(name)
        if full is not None and full not in stored:
            stored[full] = name
        elif family.other_heads.fullmatch(bare) and full is None:
            left_out.append(name)
        elif name not in also and not family.buffers.fullmatch(bare):
            unknown.append(name)

    drawn: list[str] = []
    for name, tensor in tensors.items():
        there = stored.get(name)
        fits = there is not None and files.shapes[there] == shapes[name]
        if not fits and drawable(tensor.paths[0], config, source.stored, source.head):
            drawn += tensor.paths
            left_out += [stored.pop(name)] if there is not None else []
    missing = [name for name, tensor in tensors.items() if name not in stored and tensor.paths[0] not in drawn]
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
    return _Match({name: tensor for name, tensor in tensors.items() if name in stored}, stored, drawn, left_out)


def _read_params(
    files: Weights, match: _Match, source: _Source, model: Model, dtype: np.dtype, shardings: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameters in the files, by '/'-joined path, each put where it belongs before the next is read."""
    for name, other in source.config.tensor_names().tied.items():
        if {name, other} <= match.stored.keys() and not _same(files[match.stored[name]], files[match.stored[other]]):
            raise UserError(
                f"{files.folder}: {name!r} is not {other!r}, to which config.json ties it; "
                "where they should differ, set its 'tie_word_embeddings' to false"
            )
    params: dict[str, Any] = {}
    stacks: dict[str, dict[int, np.ndarray]] = {}
    # All layers of one parameter after another, so that few stacks are unfinished at a time; and the largest first: it
    # is there twice for a moment, as read and where it belongs.
    groups: dict[str, list[str]] = {}
    for name, tensor in match.tensors.items():
        groups.setdefault(_scanned(tensor.paths[0])[0], []).append(name)

    def size(names: list[str]) -> int:
        return sum(math.prod(files.shapes[match.stored[name]]) for name in names)

    for name in itertools.chain(*sorted(groups.values(), key=size, reverse=True)):
        tensor = match.tensors[name]
        whole = files[match.stored[name]]
        whole = whole.T if tensor.transpose else whole
        for path, piece in zip(tensor.paths, np.split(whole, len(tensor.paths), axis=-1), strict=True):
            piece = np.ascontiguousarray(piece, dtype)
            place, depth = _scanned(path)
            if model.scan_layers and depth is not None:
                stack = stacks.setdefault(place, {})
                stack[depth] = piece
                if len(stack) < model.config.n_layer:
                    continue
                path, piece = place, np.stack([stack[i] for i in range(len(stack))])
                del stacks[place]
            params[path] = put(piece, shardings.get(path))
    return params


def _draw(model: Model, key: jax.Array, paths: Sequence[str], dtype: Any) -> dict[str, jax.Array]:
    """These parameters alone, with the values that `init_params` gives them."""
    one_layer = model.clone(scan_layers=True)  # of which no more is drawn, so that a deep model need not be traced

    def init(key):
        params = flatten_dict(one_layer.init(key, jnp.zeros((1, 1), jnp.int32))["params"], sep="/")
        return {path: params[path].astype(dtype) for path in paths}

    return jax.jit(init)(key)


def _their_shape(tensor: Tensor, ours: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    *rest, last = ours[tensor.paths[0]]
    shape = (*rest, last * len(tensor.paths))
    return shape[::-1] if tensor.transpose else shape


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the bits are; NaN equals itself."""
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))


@functools.lru_cache(maxsize=4)  # a run asks several times, and each is a trace of the whole model
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


def _scanned(path: str) -> tuple[str, int | None]:
    """As `scanned`, for a '/'-joined path."""
    stacked, depth = scanned(split(path))
    return show(stacked), depth


def _take(leaves: Mapping[str, Any], path: str, model: Model) -> np.ndarray:
    place, depth = _scanned(path)
    if depth is None or not model.scan_layers:
        return np.asarray(leaves[path])
    return np.asarray(leaves[place][depth])
