"""Tables that a head is tied to, and the kernels that take their place if the two come apart."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hut_jax.interop.tensors import NamesTensors

Untied = tuple[tuple[str, str], ...]
"""As `Adapter.untied`: pairs of a kernel's path and of the path of the table that it starts as."""


def untied_kernels(config: NamesTensors) -> Untied:
    """The kernels that a model has if its config ties nothing, with the tables that they are now."""
    tied = config.tensor_names()
    if not tied.tied:
        return ()
    apart = {tensor.name: tensor.paths[0] for tensor in untied_config(config).tensor_names().tensors}
    paths = {tensor.name: tensor.paths[0] for tensor in tied.tensors}
    pairs = ((apart.get(name), paths[table]) for name, table in tied.tied.items())
    return tuple((kernel, table) for kernel, table in pairs if kernel is not None and kernel not in paths.values())


def untied_config(config: Any) -> Any:
    """The config of a model whose head has a kernel of its own."""
    return dataclasses.replace(config, tie_word_embeddings=False)


def with_own_head(model: Any, leaves: Mapping[tuple[str, ...], Any]) -> Any:
    """The model as its parameters are: without the tie, if they have a kernel in place of the tied table."""
    heads = [tuple(kernel.split("/")) for kernel, _ in untied_kernels(model.config)]
    apart = bool(heads) and all(head in leaves for head in heads)
    return model.clone(config=untied_config(model.config)) if apart else model
