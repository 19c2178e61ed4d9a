"""A model's folder as a source of parameters: its config with the requested head, and the tensors to read."""

import functools
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import read_json
from hut_jax.core.trees import Path, flatten, split
from hut_jax.interop.tensors import Tensor
from hut_jax.models.hub import model_files
from hut_jax.models.hub.families import FAMILIES, Family
from hut_jax.models.hub.heads import Head, drawable, stored_head, with_head
from hut_jax.models.hub.model_files import Weights, listing

_FLOATS = ("F64", "F32", "F16", "BF16")


class Source(NamedTuple):
    """A folder's config.json, combined with the requested head.

    Attributes:
        family: the model's.
        config: the config with the requested head.
        stored_config: the config with the head of the files.
        stored_head: the head of the files; None if the family has no such head.
        architecture: the transformers class that wrote the files.
    """

    family: Family
    config: Any
    stored_config: Any
    stored_head: str | None
    architecture: str


def read_source(folder: FilePath, head: Head) -> Source:
    """Read the config.json of a folder.

    Raises:
        UserError: it is not supported, or the model cannot have the head.
    """
    path = folder / model_files.CONFIG
    values = read_json(path)
    kind = values.get("model_type")
    if kind not in FAMILIES:
        found = "no 'model_type'" if kind is None else f"model_type {kind!r} is not supported"
        raise UserError(f"{path}: {found}; {nearest(str(kind), FAMILIES)}")
    family = FAMILIES[kind]
    stored = family.config.from_json(values, where=str(path))
    config = with_head(family, stored, values, head, where=str(path))
    architecture = (values.get("architectures") or list(family.heads))[0]
    return Source(family, config, stored, stored_head(family, values), architecture)


class Match(NamedTuple):
    """The match between the tensors of the files and those of the model.

    Attributes:
        tensors: name -> the parameters that are read from it.
        stored: name -> its name in the files.
        drawn: our parameters that the files do not have.
        left_out: the files' tensors that belong to another head.
    """

    tensors: Mapping[str, Tensor]
    stored: Mapping[str, str]
    drawn: list[Path]
    left_out: list[str]


def match_tensors(files: Weights, source: Source) -> Match:
    """Match the tensors of the files to those of the model. Only headers are read.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, or not of floats.
    """
    family, config = source.family, source.config
    ours = shapes_of(family.model(config=config))
    names = config.tensor_names()
    tensors = {tensor.name: tensor for tensor in names.tensors}
    shapes = {name: _their_shape(tensor, ours) for name, tensor in tensors.items()}
    shapes.update({name: shapes[other] for name, other in names.tied.items()})
    wanted = {names.bare(name): name for name in shapes}
    also = {tensor.also: name for name, tensor in tensors.items() if tensor.also}

    stored: dict[str, str] = {}
    unknown, left_out = [], []
    for name in sorted(
        files.shapes, key=lambda name: name in also
    ):  # so that a tensor's first name comes before its other name
        bare = names.bare(family.today(name))
        full = wanted.get(bare) or also.get(name)
        if full is not None and full not in stored:
            stored[full] = name
        elif family.other_heads.fullmatch(bare) and full is None:
            left_out.append(name)
        elif name not in also and not family.buffers.fullmatch(bare):
            unknown.append(name)

    drawn: list[Path] = []
    for name, tensor in tensors.items():
        there = stored.get(name)
        fits = there is not None and files.shapes[there] == shapes[name]
        if not fits and drawable(tensor.paths[0], config, source.stored_config, source.stored_head):
            drawn += map(split, tensor.paths)
            left_out += [stored.pop(name)] if there is not None else []
    missing = [name for name, tensor in tensors.items() if name not in stored and split(tensor.paths[0]) not in drawn]
    misshapen = [
        f"{name} {list(files.shapes[there])}, not {list(shapes[name])}"
        for name, there in stored.items()
        if files.shapes[there] != shapes[name]
    ]
    odd = [f"{there} {files.dtypes[there]}" for there in stored.values() if files.dtypes[there] not in _FLOATS]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen, "not floats": odd}
    found = [f"{len(names)} {what}: {listing(names)}" for what, names in faults.items() if names]
    if found:
        raise UserError(f"{files.folder}: its tensors are not those of its config.json: {'; '.join(found)}")
    return Match({name: tensor for name, tensor in tensors.items() if name in stored}, stored, drawn, left_out)


@functools.lru_cache(maxsize=4)  # a run asks several times, and each is a trace of the whole model
def shapes_of(model: Any) -> dict[Path, tuple[int, ...]]:
    """The shape of each of a model's parameters."""
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def _their_shape(tensor: Tensor, ours: Mapping[Path, tuple[int, ...]]) -> tuple[int, ...]:
    *rest, last = ours[split(tensor.paths[0])]
    shape = (*rest, last * len(tensor.paths))
    return shape[::-1] if tensor.transpose else shape
