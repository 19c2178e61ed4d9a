"""Write an adapter so that PEFT can read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import numpy as np
from jaxtyping import Array, PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.files import write_adapter_files
from hut_jax.adapters.site import Site
from hut_jax.core.errors import UserError
from hut_jax.core.locate import split_revision
from hut_jax.core.scanned_layers import unstack_layers
from hut_jax.core.trees import flatten, show
from hut_jax.interop.heads import TASKS, auto_mapping
from hut_jax.interop.layers import Layers
from hut_jax.interop.methods.base import Own
from hut_jax.interop.methods.registry import method_for
from hut_jax.interop.modules_to_save import CLASSIFIER, inside, write_whole
from hut_jax.interop.plain_names import PREFIX

_OF_DECODERS = "score"
"""transformers' name for the classification head of a decoder; an encoder's is `CLASSIFIER`."""


def save_peft(
    folder: str | Path,
    adapter: Adapter,
    factors: PyTree[Array],
    model: nn.Module,
    params: Mapping[str, Any],
    base_name: str | None = None,
) -> None:
    """Write the adapter so that Hugging Face PEFT can read it, all of it or nothing. An existing adapter is replaced.

    PEFT has LoRA, LoRA+ (as LoRA), DoRA, HiRA, LoHa, IA3 and LayerNorm tuning, as which full fine-tuning is written,
    too. The parameters that `also_train` names become `modules_to_save`: whole modules, with the base's
    values where nothing was trained. So does a classifier's head, which PEFT expects in the file. Beside LoRA, biases
    of targets become PEFT's `bias`.

    Args:
        folder: of the two files; it is made if it is missing.
        adapter: the adapter.
        factors: its factors.
        model: as from `load_pretrained`.
        params: the base's parameters.
        base_name: the base's folder or hub name, by which PEFT's own loaders find it; a `@revision` is its `revision`.

    Raises:
        UserError: PEFT does not have the transformation, or not on these layers, or the factors are not this adapter's.
    """
    merged = (
        "export the merged model instead, python -m hut_jax.merge for a run, or save_pretrained(folder, model, "
        "adapter.merge(params, factors))"
    )
    layers = Layers(model, params, adapter.untied)
    depth = cast(Any, model).config.n_layer
    flat = {show(path): np.asarray(leaf, np.float32) for path, leaf in flatten(unstack_layers(factors)).items()}
    mine: dict[str, Own] = {}
    deviations: dict[str, np.ndarray] = {}
    for site in adapter.check(params, factors):
        for path in _apart(site, depth):
            if site.also:
                deviations[path] = flat[f"{path}/d"]
            else:
                mine[path] = Own(site.transform, {name: flat[f"{path}/{name}"] for name in site.factors})
    method = method_for(adapter.transform, mine, deviations, layers)
    if method is None:
        raise UserError(f"PEFT has no {adapter.transform.name}; {merged}")
    own: dict[str, dict[str, Own]] = {}
    try:
        mine, deviations = method.unshifted(mine, deviations, layers)
        for path, its in mine.items():
            own.setdefault(method.target(path, layers), {})[path] = its
    except UserError as error:
        raise UserError(f"{error}; {merged}") from None
    whole, tensors, bias = write_whole(deviations, layers, list(own))
    if bias != "none" and method.peft_type != "LORA":
        raise UserError(f"in PEFT the bias of a target trains beside LoRA alone; {merged}")
    written = {}
    for module, given in own.items():
        if inside(module, whole):
            raise UserError(f"{module} has factors, but PEFT saves it whole with modules_to_save={whole}; {merged}")
        try:
            written[module] = method.write(module, given, layers)
        except UserError as error:
            raise UserError(f"{error}; {merged}") from None
    written = method.even(written, layers)
    for module, one in written.items():
        tensors |= {f"{module}.{ending}": tensor for ending, tensor in one.tensors.items()}
    tensors |= method.beside(tensors, layers)
    config = cast(Any, model).config
    task = TASKS[config.head]
    if task == TASKS["classification"]:
        classifier = _OF_DECODERS if f"{_OF_DECODERS}.weight" in layers.tensors else CLASSIFIER
        task = task if classifier in whole else None
        # PEFT's loaders for this task expect the whole head in the file; without it, they fail.
        if method.saves_whole and not any(inside(module, [classifier]) for module in own):
            head = {name: layers.value(name) for name in layers.tensors if inside(name, [classifier])}
            tensors = head | tensors
            whole = sorted({classifier, *(module for module in whole if not inside(module, [classifier]))})
    base, revision = split_revision(base_name) if base_name and not Path(base_name).exists() else (base_name, None)
    description = {
        "peft_type": method.peft_type,
        "task_type": task,
        "auto_mapping": auto_mapping(config) if task is None else None,
        "base_model_name_or_path": base,
        **({"revision": revision} if revision else {}),
        "inference_mode": True,
        "target_modules": sorted(written),
        **({"modules_to_save": whole or None} if method.saves_whole else {}),
        **method.describe(adapter.transform, written),
        **({"bias": bias} if bias != "none" else {}),
    }
    arrays = {PREFIX + name: np.asarray(tensor, np.float32, order="C") for name, tensor in tensors.items()}
    write_adapter_files(folder, description, arrays, {"format": "pt"})


def _apart(site: Site, depth: int) -> list[str]:
    """The paths of a site's layers: one, or for stacked layers one for each."""
    if site.path[0] != "layers":
        return [show(site.path)]
    return [show((f"layer_{i}", *site.path[1:])) for i in range(depth)]
