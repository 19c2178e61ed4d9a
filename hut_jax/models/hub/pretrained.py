"""Models from a hub name or a folder, with or without their pretrained parameters."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hut_jax.core.locate import locate
from hut_jax.core.trees import Path, flatten, show, unflatten
from hut_jax.models.compute import FLOAT32, Compute
from hut_jax.models.hub import model_files
from hut_jax.models.hub.heads import Head, as_head
from hut_jax.models.hub.model_files import listing, locate_model, open_weights
from hut_jax.models.hub.reading import read_params
from hut_jax.models.hub.source import Source, match_tensors, read_source
from hut_jax.parallel.processes import put

Model = Any  # a Linen module of one of FAMILIES' classes

_log = logging.getLogger(__name__)


def load_pretrained(
    name: str | os.PathLike,
    *,
    head: Head | str | None = None,
    compute: Compute = FLOAT32,
    key: jax.Array | None = None,
    draw: bool = True,
    report: Callable[[str], None] = _log.warning,
    shardings: Mapping[str, Any] | None = None,
) -> tuple[Model, dict[str, Any]]:
    """The model of a Hugging Face checkpoint and its parameters.

    Tensors are read one by one, so that only one copy of the model is in memory. If the checkpoint has another head
    than the requested one, the parameters that both share are read. The others are drawn at random, as the model's
    authors drew them.

    Args:
        name: a folder, or a hub name such as `gpt2` or, with a branch, a tag or a commit, `gpt2@revision`, whose files
            are downloaded or taken from the cache. Safetensors are read, or, where there are none, Flax weights
            (`flax_model.msgpack`). Pickled files (`pytorch_model.bin`) are never read.
        head: a `Head`, or its name alone. Default: the head that config.json's `architectures` name.
        compute: the dtype, and how the model computes.
        key: the key of the drawn parameters; default: `jax.random.key(0)`.
        draw: False sets these parameters to zero, for an adapter that holds all of them (`also_train`).
        report: called with a line on the parameters that were drawn, if any, a line on the tensors of other heads that
            were left out, if any, and a line on tied biases that differ. Default: a logged warning.
        shardings: a tree of `jax.sharding.Sharding`s, one for each parameter. Each parameter is placed as it is read.
            Default: all parameters on one device.

    Raises:
        UserError: there is no such model, config.json is not supported, the model does not support the head or the
            attention, or the files are damaged or do not have the config's shapes.
    """
    folder = locate_model(name)
    model = _model(read_source(folder, as_head(head)), compute)
    return model, load_params(model, folder, head=head, key=key, draw=draw, report=report, shardings=shardings)


def load_params(
    model: Model,
    name: str | os.PathLike,
    *,
    head: Head | str | None = None,
    key: jax.Array | None = None,
    draw: bool = True,
    report: Callable[[str], None] = _log.warning,
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters of a Hugging Face checkpoint for a model that `build_model` made with the same name and head.

    The other arguments and the errors are those of `load_pretrained`.
    """
    folder = locate_model(name)
    source = read_source(folder, as_head(head))
    files = open_weights(folder, source.architecture)
    match = match_tensors(files, source)
    placed = {} if shardings is None else flatten(shardings)
    params = read_params(files, match, model, np.dtype(model.dtype), placed, report)
    if match.drawn:
        new = _draw(model, jax.random.key(0) if key is None else key, match.drawn, model.dtype)
        new = new if draw else {path: jnp.zeros_like(leaf) for path, leaf in new.items()}
        params.update({path: put(np.asarray(leaf), placed.get(path)) for path, leaf in new.items()})
        if draw:
            names = listing(map(show, match.drawn))
            report(f"{folder}: drawn at random, since the files have none that fit: {names}")
    if match.left_out:
        report(f"{folder}: left out, since head {model.config.head!r} has no use for them: {listing(match.left_out)}")
    return unflatten(params)


def missing_params(name: str | os.PathLike, *, head: Head | str | None = None) -> list[Path]:
    """The paths of the parameters that a checkpoint lacks for the head. Only headers are read.

    Arguments and errors are those of `load_pretrained`.
    """
    folder = locate_model(name)
    source = read_source(folder, as_head(head))
    return match_tensors(open_weights(folder, source.architecture), source).drawn


def build_model(name: str | os.PathLike, *, head: Head | str | None = None, compute: Compute = FLOAT32) -> Model:
    """The model that the config.json of a folder or hub name describes. For parameters see `init_params`.

    Arguments and errors are those of `load_pretrained`.
    """
    return _model(read_source(locate(name, (model_files.CONFIG,)), as_head(head)), compute)


def init_params(model: Model, key: jax.Array, *, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Random parameters, drawn as the model's authors drew them."""

    def init(key):
        params = model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    return jax.jit(init)(key)


def _model(source: Source, compute: Compute) -> Model:
    return source.family.model(config=source.config, **vars(compute))


def _draw(model: Model, key: jax.Array, paths: Sequence[Path], dtype: Any) -> dict[Path, jax.Array]:
    """Draw only these parameters, with the values that `init_params` gives them."""
    # None of the paths is in a layer, and tracing one layer is faster than tracing all.
    scanned = model.clone(scan_layers=True)

    def init(key):
        params = flatten(scanned.init(key, jnp.zeros((1, 1), jnp.int32))["params"])
        return {path: params[path].astype(dtype) for path in paths}

    return jax.jit(init)(key)
