"""A model's folder as a source of parameters: its config with the requested head, and the tensors to read."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import read_json
from hut_jax.core.locate import refuse_gguf
from hut_jax.core.trees import Path, flatten, split
from hut_jax.interop.tensors import Tensor, TensorNames
from hut_jax.models.hub import model_files
from hut_jax.models.hub.families import FAMILIES, Family
from hut_jax.models.hub.heads import Head, drawable, stored_head, with_head
from hut_jax.models.hub.model_files import Weights, listing

_FLOATS = ("F64", "F32", "F16", "BF16")
_LONGEST = 32  # parts of a name; none of a model's has ten


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
    if not path.is_file():
        refuse_gguf(folder.glob("*.gguf"))
    values = read_json(path)
    kind = values.get("model_type") or _kind(values)
    if kind not in FAMILIES:
        found = "no 'model_type'" if kind is None else f"model_type {kind!r} is not supported"
        raise UserError(f"{path}: {found}; {nearest(str(kind), FAMILIES)}")
    family = FAMILIES[kind]
    stored = family.config.from_json({**values, "model_type": kind}, where=str(path))
    config = with_head(family, stored, values, head, where=str(path))
    architecture = (values.get("architectures") or list(family.heads))[0]
    return Source(family, config, stored, stored_head(family, values), architecture)


def _kind(values: Mapping[str, Any]) -> str | None:
    """The `model_type` by the architectures, for config.json files that are older than the field."""
    names = values.get("architectures") or []
    return next((kind for kind, family in FAMILIES.items() if any(name in family.heads for name in names)), None)


class Match(NamedTuple):
    """The match between the tensors of the files and those of the model.

    Attributes:
        tensors: name -> the parameters that are read from it.
        stored: name -> its name in the files.
        tied: name -> the name in the files of a second tensor, to which config.json ties it.
        drawn: our parameters that the files do not have.
        left_out: the files' tensors that belong to another head.
    """

    tensors: Mapping[str, Tensor]
    stored: Mapping[str, str]
    tied: Mapping[str, str]
    drawn: list[Path]
    left_out: list[str]


def match_tensors(files: Weights, source: Source) -> Match:
    """Match the tensors of the files to those of the model. Only headers are read.

    Raises:
        UserError: a tensor is missing, unknown, of another shape, or not of floats.
    """
    family, config = source.family, source.config
    if config.n_layer > len(files.shapes):  # before as many layers are traced
        raise UserError(
            f"{files.folder}: config.json has {config.n_layer} layers, and the files only {len(files.shapes)} tensors"
        )
    ours = shapes_of(family.model(config=config))
    names = config.tensor_names()
    tensors = {tensor.name: tensor for tensor in names.tensors}
    shapes = {name: _their_shape(tensor, ours) for name, tensor in tensors.items()}
    also = {tensor.also: name for name, tensor in tensors.items() if tensor.also}
    others = {**also, **names.tied, **names.elsewhere}
    found, unknown, left_out = _by_name(files.shapes, names, [*tensors, *others], family)

    stored = {name: found[name] for name in tensors if name in found}
    tied: dict[str, str] = {}
    for other, name in others.items():
        if other not in found:
            continue
        if name not in stored:
            stored[name] = found[other]
        elif other in names.tied:
            tied[name] = found[other]
        elif other in names.elsewhere:
            left_out.append(found[other])

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
        for name, there in (*stored.items(), *tied.items())
        if files.shapes[there] != shapes[name]
    ]
    odd = [f"{there} {files.dtypes[there]}" for there in stored.values() if files.dtypes[there] not in _FLOATS]
    unknown += left_out if missing else []
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen, "not floats": odd}
    told = [f"{len(faulty)} {what}: {listing(faulty)}" for what, faulty in faults.items() if faulty]
    if told:
        raise UserError(
            f"{files.folder}: its tensors are not those of its config.json: {'; '.join(told)}"
            f"{_labels_advice(files, tensors, stored, shapes)}{_tie_advice(config, missing)}"
        )
    return Match({name: tensor for name, tensor in tensors.items() if name in stored}, stored, tied, drawn, left_out)


def _by_name(
    stored: Iterable[str], names: TensorNames, known: Sequence[str], family: Family
) -> tuple[dict[str, str], list[str], list[str]]:
    """The names in the files of the known tensors; the unknown tensors of the body; the tensors of other heads."""
    today = {name: family.today(name) for name in sorted(stored)}
    wanted = {names.bare(name): name for name in known}
    wrapper = _wrapper(today.values(), {*wanted, *(f"{names.prefix}{bare}" for bare in wanted)})
    found: dict[str, str] = {}
    unknown, left_out = [], []
    for name, short in today.items():
        bare = names.bare(short.removeprefix(wrapper))
        full = wanted.get(bare)
        if full is not None and full not in found:
            found[full] = name
        elif full is not None or (family.in_body(bare) and not family.buffers.fullmatch(bare)):
            unknown.append(name)
        elif not family.in_body(bare):
            left_out.append(name)
    return found, unknown, left_out


def _wrapper(stored: Iterable[str], known: set[str]) -> str:
    """What stands before every known name in the files, such as "module."; empty if that differs."""
    before = set()
    for name in stored:
        parts = name.split(".")
        if len(parts) > _LONGEST:
            continue
        for i in range(len(parts)):
            if ".".join(parts[i:]) in known:
                before.add("".join(f"{part}." for part in parts[:i]))
                break
    return before.pop() if len(before) == 1 else ""


def _labels_advice(
    files: Weights, tensors: Mapping[str, Tensor], stored: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """What to do if config.json has another number of labels than the files."""
    for name, there in stored.items():
        if tensors[name].paths == ("classifier/out/kernel",) and files.shapes[there][1:] == shapes[name][1:]:
            count = files.shapes[there][0]
            if count != shapes[name][0]:
                return (
                    f"; the files have {count} labels: ask for them with Head(num_labels={count}), or write "
                    f"'num_labels': {count} for 'id2label' in config.json"
                )
    return ""


def _tie_advice(config: Any, missing: Sequence[str]) -> str:
    """What to do if only a head is missing that could be the embedding."""
    if not missing or config.tie_word_embeddings:
        return ""
    tied = dataclasses.replace(config, tie_word_embeddings=True).tensor_names().tied
    alone = tied.keys() >= set(missing)
    return "; if the head is the embedding, set 'tie_word_embeddings' to true in config.json" if alone else ""


@functools.lru_cache(maxsize=4)  # a run asks several times, and each is a trace of the whole model
def shapes_of(model: Any) -> dict[Path, tuple[int, ...]]:
    """The shape of each of a model's parameters."""
    tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def _their_shape(tensor: Tensor, ours: Mapping[Path, tuple[int, ...]]) -> tuple[int, ...]:
    shapes = [ours[split(path)] for path in tensor.paths]
    shape = (*shapes[0][:-1], sum(each[-1] for each in shapes)) if len(shapes) > 1 else shapes[0]
    return shape[::-1] if tensor.transpose else shape
