"""Read an adapter that PEFT wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.files import WEIGHTS_FILE
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.scanned_layers import scanned
from hut_jax.core.trees import show, split, unflatten
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.folder import open_folder
from hut_jax.interop.heads import check_head, trained_only
from hut_jax.interop.layers import Layers
from hut_jax.interop.method import Arrays, Method, Part, exactly
from hut_jax.interop.modules_to_save import read_whole
from hut_jax.interop.plain_names import plain_names
from hut_jax.interop.registry import METHODS


def load_peft(
    folder: str | Path, model: nn.Module, params: Mapping[str, Any], *, subfolder: str | None = None
) -> tuple[Adapter, PyTree[Array]]:
    """Read an adapter that Hugging Face PEFT wrote. Nothing is unpickled or run.

    Supported are LoRA (with rsLoRA and DoRA), IA3, HiRA, LoHa and LayerNorm tuning, with modules that were trained in
    full (`modules_to_save`, here `also_train`). Targets and ranks are those of the tensors in the file. LoRA's dropout
    is kept. The dropout of HiRA and LoHa, which only acts in training, is left out, since ours have no dropout.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`, or a hub name such as `user/name`, of which
            these two files are downloaded or taken from the cache.
        model: GPT-2, RoBERTa or BERT, as from `load_pretrained`.
        params: the parameters on which the adapter was trained. A module that PEFT saved whole becomes a deviation
            from them, and so fits these parameters only.
        subfolder: of the folder, if the files are there: PEFT's `save_pretrained` writes an adapter with another name
            than "default" to a subfolder of that name.

    Raises:
        UserError: the folder holds no such adapter, a file is damaged or belongs to another model, or the adapter needs
            what our transformations cannot compute.
    """
    files = open_folder(folder, subfolder)
    try:
        fields = Fields(files.values)
        method = _method(fields)
        layers = Layers(model, params)
    except UserError as error:
        raise UserError(f"{files.path}: {error}") from None
    tensors = files.tensors()
    try:
        with np.errstate(all="ignore"):  # factors that are not finite are refused
            return _adapter(method, fields, tensors, layers, model, params)
    except UserError as error:
        raise UserError(f"{files.path}: {error}") from None


def _adapter(
    method: Method,
    fields: Fields,
    tensors: Mapping[str, np.ndarray],
    layers: Layers,
    model: Any,
    params: Mapping[str, Any],
) -> tuple[Adapter, PyTree[Array]]:
    of_modules, rest = _by_module(tensors, method, fields)
    check_head(rest, of_modules.keys(), model.config)
    parts = [part for module, given in of_modules.items() for part in method.read(module, given, layers, fields)]
    for path, times in Counter(part.path for part in parts).items():
        if times > 1:
            raise UserError(f"the file adapts {path} twice, with and without the prefix of the model's body")
    parts = method.settle(parts, fields)
    also = trained_only(read_whole(rest, fields.names("modules_to_save"), layers))
    if "layers" in params:
        parts, also = _stacked(parts, model.config.n_layer), _stacked(also, model.config.n_layer)
    transform, ranks = method.transform(parts, fields)
    adapter = Adapter(
        transform,
        exactly([part.path for part in parts]),
        ranks=ranks,
        also_train=exactly(sorted({part.path.rpartition("/")[0] for part in also})),
    )
    leaves = {f"{part.path}/{name}": leaf for part in (*parts, *also) for name, leaf in part.factors.items()}
    for path, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise UserError(f"its factor {path} has values that are not finite")
    factors = unflatten({split(path): jnp.asarray(leaf, jnp.float32) for path, leaf in leaves.items()})
    adapter.check(params, factors)
    return adapter, factors


def _method(fields: Fields) -> Method:
    kind = str(fields.text("peft_type"))
    if kind not in METHODS:
        raise UserError(f"peft_type {kind!r} is not supported; {nearest('', METHODS)}")
    METHODS[kind].check(fields)
    return METHODS[kind]


def _by_module(
    tensors: Mapping[str, np.ndarray], method: Method, fields: Fields
) -> tuple[dict[str, Arrays], dict[str, np.ndarray]]:
    """The method's tensors, in fp32, by module and our name; and all others by their plain names."""
    endings = method.endings(fields)
    own: dict[str, Arrays] = {}
    rest = {}
    for name, tensor in plain_names(tensors).items():
        ours = next((ours for ours, ending in endings.items() if name.endswith(f".{ending}")), None)
        if ours is None:
            rest[name] = tensor
        else:
            own.setdefault(name.removesuffix(f".{endings[ours]}"), {})[ours] = tensor.astype(np.float32)
    if not own:
        raise UserError(
            f"{WEIGHTS_FILE} has no tensor of {method.peft_type}, such as ...{next(iter(endings.values()))}"
        )
    for module, given in own.items():
        for ours in endings.keys() - given.keys() - method.optional:
            raise UserError(f"{WEIGHTS_FILE} has no {module}.{endings[ours]}, but other tensors of that module")
    return own, rest


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
