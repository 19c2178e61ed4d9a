"""From the tensors of a PEFT file to our adapter."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.files import WEIGHTS_FILE
from hut_jax.adapters.params import untie
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.scanned_layers import scanned
from hut_jax.core.trees import flatten, show, split, unflatten
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.heads import check_head, trained_only
from hut_jax.interop.layers import Layers
from hut_jax.interop.methods.base import ROWS, Arrays, Method, Part, exactly
from hut_jax.interop.methods.registry import METHODS
from hut_jax.interop.modules_to_save import Rows, named, read_whole, same, saved, token_rows
from hut_jax.interop.tied import Untied, untied_kernels

_NOT_READ = "trainable_tokens_original"  # what the base is
_WRAPPED = re.compile(r"\.(token_adapter|base_layer)(?=\.)")


class Given(NamedTuple):
    """The tensors of a file, without PEFT's own parts in their names.

    Attributes:
        factors: the method's, in fp32, by module and our name.
        rows: the rows of single tokens, by module.
        whole: all others, by name.
    """

    factors: dict[str, Arrays]
    rows: Arrays
    whole: Arrays


def method_of(fields: Fields, tied: Mapping[str, str]) -> Method:
    """The method that the fields name, once they are checked.

    Args:
        fields: of `adapter_config.json`.
        tied: the model's tensors that are tied, a head's by name -> the table's.

    Raises:
        UserError: the method, the task or a field is not supported.
    """
    kind = str(fields.text("peft_type"))
    if kind not in METHODS:
        raise UserError(f"peft_type {kind!r} is not supported; {nearest('', METHODS)}")
    fields.check_task()
    fields.check_mergeable(tied)
    METHODS[kind].check(fields)
    return METHODS[kind]


def read_adapter(
    method: Method, fields: Fields, tensors: Mapping[str, np.ndarray], model: Any, params: Mapping[str, Any]
) -> tuple[Adapter, PyTree[Array]]:
    """The adapter and its factors.

    Args:
        method: as `method_of` gives it.
        fields: of `adapter_config.json`.
        tensors: by their plain names.
        model: GPT-2, RoBERTa or BERT.
        params: its parameters.

    Raises:
        UserError: the tensors do not fit the fields or the model.
    """
    layers = Layers(model, params)
    given = sort_tensors(tensors, method, fields)
    modules = given.factors.items() if method.whole else ()
    of_modules = {f"{module}.{leaf}": tensor for module, own in modules for leaf, tensor in own.items()}
    check_head(given.whole | of_modules, given.factors.keys(), model.config)
    whole, rows = named(given.whole, layers), token_rows(given.rows, fields, layers)
    entries = fields.names("modules_to_save")
    untied: Untied = ()
    if _comes_apart(given.factors, whole, rows, layers, method, fields):
        untied = untied_kernels(model.config)
        _give_both_ends(whole, rows, entries, layers)
        layers = Layers(model, params, untied)
    own = _without_mirrors(given.factors, layers)
    parts = [part for module, its in own.items() for part in method.read(module, its, layers, fields)]
    for path, times in Counter(part.path for part in parts).items():
        if times > 1:
            raise UserError(f"the file adapts {path} twice, with and without the prefix of the model's body")
    also = trained_only(read_whole(whole, rows, entries, layers))
    also = _shifted(also, [method.shifts(module, its, layers, fields) for module, its in own.items()])
    if method.factors:
        parts = method.settle(parts, fields)
    else:
        parts, also = also, []
    if "layers" in params:
        parts, also = _stacked(parts, model.config.n_layer), _stacked(also, model.config.n_layer)
    transform, ranks = method.transform(parts, fields)
    adapter = Adapter(
        transform,
        exactly([part.path for part in parts]),
        ranks=ranks,
        also_train=_whole_patterns(also, parts, [show(path) for path in flatten(untie(params, untied))]),
        untied=untied,
    )
    leaves = {f"{part.path}/{name}": leaf for part in (*parts, *also) for name, leaf in part.factors.items()}
    for path, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise UserError(f"its factor {path} has values that are not finite")
    factors = unflatten({split(path): jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})
    adapter.check(params, factors)
    return adapter, factors


def sort_tensors(tensors: Mapping[str, np.ndarray], method: Method, fields: Fields) -> Given:
    """The tensors of a file by what they are.

    Raises:
        UserError: a module lacks a tensor or has one twice, or there is none of the method's.
    """
    endings = method.endings(fields)
    given = Given({}, {}, {})
    for name, tensor in tensors.items():
        if any(part in name for part in (_NOT_READ, *method.trained_only)):
            continue
        bare = _WRAPPED.sub("", name)
        ending = next((ending for ending in (*endings, ROWS) if bare.endswith(f".{ending}")), None)
        module = bare.removesuffix(f".{ending}")
        place, key = (given.whole, bare) if ending is None else (given.rows, module)
        if ending in endings:
            place, key = given.factors.setdefault(module, {}), endings[ending]
        if key in place:
            raise UserError(f"{WEIGHTS_FILE} has {bare} twice")
        place[key] = tensor if ending is None else tensor.astype(np.float32)
    if method.factors and not given.factors:
        raise UserError(f"{WEIGHTS_FILE} has no tensor of {method.peft_type}, such as ...{next(iter(endings))}")
    if not method.factors and not given.rows:
        raise UserError(f"{WEIGHTS_FILE} has no tensor of {method.peft_type}, such as ...{ROWS}")
    for module, own in given.factors.items():
        for name in sorted(method.required(own, fields) - own.keys()):
            ending = next(ending for ending, ours in endings.items() if ours == name)
            raise UserError(f"{WEIGHTS_FILE} has no {module}.{ending}, but other tensors of that module")
    return given


def _comes_apart(
    factors: Mapping[str, Arrays],
    whole: Mapping[str, np.ndarray],
    rows: Mapping[str, Rows],
    layers: Layers,
    method: Method,
    fields: Fields,
) -> bool:
    """Whether a tied head and its table become different things.

    PEFT wraps each of the two modules by itself, and the other one stays the base's. Where PEFT kept the two tied
    (`ensure_weight_tying`, which it does not do for all names of embeddings), the file holds both.
    """
    entries = fields.names("modules_to_save")
    modules = {layers.bare(module): module for module in factors}
    kernels = {head: table for head, table in layers.tied.items() if head.endswith(".weight")}
    for head, table in kernels.items():
        names = [modules.get(layers.bare(end.removesuffix(".weight"))) for end in (table, head)]
        one, other = names
        if one is not None and other is not None:
            if not method.mirrored(one, factors[one], other, factors[other], fields):
                return True
        elif one is not None or other is not None:
            return True
        if head in rows and not (table in rows and _equal(rows[head], rows[table])):
            return True
        if head in whole and table in whole:
            if not same(whole[head], whole[table]):
                return True
        elif table in whole and saved(table, entries):
            return True
        elif head in whole and saved(head, entries) and not same(whole[head], layers.value(head)):
            return True  # a head that is the base's may be part of a block that was saved
    return False


def _give_both_ends(whole: Arrays, rows: dict[str, Rows], entries: Sequence[str], layers: Layers) -> None:
    """Give a head that comes apart what PEFT's file says of its table alone and means for both, and the reverse."""
    for head, table in layers.tied.items():
        for one, other in ((head, table), (table, head)):
            if one in whole and other not in whole and not saved(one, entries):
                whole[other] = whole[one]
        if table in rows and head not in rows:
            rows[head] = rows[table]


def _without_mirrors(factors: dict[str, Arrays], layers: Layers) -> dict[str, Arrays]:
    """The factors but for those of heads that are tied: they are those of the tables."""
    heads = {layers.bare(head.removesuffix(".weight")) for head in layers.tied}
    return {module: own for module, own in factors.items() if layers.bare(module) not in heads}


def _equal(one: Rows, other: Rows) -> bool:
    return one.indices == other.indices and np.array_equal(one.values, other.values)


def _shifted(parts: Sequence[Part], shifts: Sequence[Arrays]) -> list[Part]:
    """The parts with what is added to biases."""
    by_path = {part.path: part for part in parts}
    for path, shift in (item for own in shifts for item in own.items()):
        part = by_path.get(path, Part(path, {"d": np.zeros_like(shift)}))
        by_path[path] = part._replace(factors={"d": part.factors["d"] + shift})
    return list(by_path.values())


def _whole_patterns(also: Sequence[Part], parts: Sequence[Part], paths: Sequence[str]) -> list[str]:
    """The patterns of the modules that train whole, and of parameters that train alone."""
    targets = {leaf for part in parts for leaf in (part.path, f"{part.path}/kernel", f"{part.path}/bias")}
    mine = {part.path for part in also}
    patterns = []
    for module in sorted({path.rpartition("/")[0] for path in mine}):
        leaves = [path for path in paths if path.rpartition("/")[0] == module]
        alone = not mine.issuperset(leaves) or not targets.isdisjoint(leaves)
        patterns += [path for path in leaves if path in mine] if alone else [module]
    return exactly(patterns)


def _stacked(parts: Sequence[Part], depth: int) -> list[Part]:
    """The parts for a model whose layers are stacked.

    Raises:
        UserError: the layers are not adapted alike.
    """
    by_path: dict[tuple[str, ...], list[Part]] = {}
    for part in sorted(parts, key=lambda part: scanned(split(part.path))[1] or 0):
        by_path.setdefault(scanned(split(part.path))[0], []).append(part)
    stacked = []
    for path, several in by_path.items():
        first = several[0]
        if show(path) == first.path:
            stacked.append(first)
            continue
        kinds = {(part.side, *(leaf.shape for leaf in part.factors.values())) for part in several}
        if len(several) != depth or len(kinds) != 1:
            raise UserError(f"{show(path)}: not all layers are adapted alike; load the model without scan_layers")
        leaves = {name: np.stack([part.factors[name] for part in several]) for name in first.factors}
        stacked.append(first._replace(path=show(path), factors=leaves))
    return stacked
