"""Read an adapter that PEFT wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array, PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.folder import open_folder
from hut_jax.interop.layers import Layers
from hut_jax.interop.plain_names import plain_names
from hut_jax.interop.reading import method_of, read_adapter


def load_peft(
    folder: str | Path, model: nn.Module, params: Mapping[str, Any], *, subfolder: str | None = None
) -> tuple[Adapter, PyTree[Array]]:
    """Read an adapter that Hugging Face PEFT wrote. Nothing is unpickled or run.

    Supported are LoRA (with rsLoRA and DoRA), AdaLoRA, IA3, HiRA, LoHa, LayerNorm tuning and trainable tokens, with
    modules, biases and tokens that were trained in full (here `also_train`). Targets and ranks are those of the tensors
    in the file. If the adapter changes one end of a tied pair alone, or both differently, the head gets a kernel of its
    own (`Adapter.untied`). LoRA's dropout is kept. The dropout of HiRA and LoHa, which only acts in training, is left
    out, since ours have no dropout.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`, or a hub name such as `user/name`, of which
            these two files are downloaded or taken from the cache.
        model: as from `load_pretrained`.
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
        method = method_of(fields, Layers(model, params).tied)
    except UserError as error:
        raise UserError(f"{files.path}: {error}") from None
    tensors = files.tensors()
    try:
        with np.errstate(all="ignore"):  # factors that are not finite are refused
            return read_adapter(method, fields, plain_names(tensors), model, params)
    except UserError as error:
        raise UserError(f"{files.path}: {error}") from None
