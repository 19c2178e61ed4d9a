"""A model's layers and parameters by both names: transformers' modules and tensors, and our paths."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from hut_jax.adapters.params import untie
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.scanned_layers import unstack_layers
from hut_jax.core.trees import flatten, show
from hut_jax.interop.tensors import MODEL_TYPES, NamesTensors, Tensor
from hut_jax.interop.tied import Untied, untied_config


class Layer(NamedTuple):
    """A dense module of transformers, or an embedding, and our layers that it computes.

    Attributes:
        name: of the module in transformers, such as `transformer.h.0.attn.c_attn`.
        paths: of our layers. With several, the module computes their outputs side by side, in this order. For an
            embedding the path of its table.
        kernels: of our layers, `[d, k]` each. A table is one, whose inputs are the ids.
        linear: whether it is torch's Linear, which keeps `[out, in]`, and not GPT-2's Conv1D or an embedding.
    """

    name: str
    paths: tuple[str, ...]
    kernels: tuple[Any, ...]
    linear: bool

    @property
    def table(self) -> bool:
        """Whether it is an embedding."""
        return self.paths[0].endswith("/embedding")

    @property
    def inputs(self) -> int:
        """The number of its inputs."""
        return self.kernels[0].shape[0]

    @property
    def outputs(self) -> int:
        """The number of its outputs, those of all our layers together."""
        return sum(kernel.shape[1] for kernel in self.kernels)

    def columns(self) -> Iterator[tuple[str, slice]]:
        """The path of each of our layers, and its slice of the module's outputs."""
        start = 0
        for path, kernel in zip(self.paths, self.kernels, strict=True):
            yield path, slice(start, start + kernel.shape[1])
            start += kernel.shape[1]


class Layers:
    """A model's layers. Stacked layers (`scan_layers`) appear separately, as `layer_{i}/...`.

    Attributes:
        tensors: transformers' name -> the tensor.
        equal: another name of a tensor -> its name in `tensors`. The other name belongs to a tied tensor, or only some
            versions of transformers use it.
        tied: the entries of `equal` for tensors that config.json ties.
        untied: the kernels that took the place of tied tables, as in `Adapter.untied`.
    """

    def __init__(self, model: nn.Module, params: Mapping[str, Any], untied: Untied = ()):
        """Find the layers.

        Args:
            model: the model.
            params: its parameters.
            untied: the kernels that take the place of tied tables, as in `Adapter.untied`.

        Raises:
            UserError: the model's config does not name its tensors, or `params` are not its parameters.
        """
        config = getattr(model, "config", None)
        if not isinstance(config, NamesTensors):
            known = nearest("", MODEL_TYPES)
            raise UserError(f"{type(model).__name__} is none of the models whose PEFT adapters are known; {known}")
        if untied:
            config, params = untied_config(config), untie(params, untied)
        self._names = config.tensor_names()
        self._flat = {show(path): leaf for path, leaf in flatten(unstack_layers(params)).items()}
        self.tensors = {tensor.name: tensor for tensor in self._names.tensors}
        self.tied = dict(self._names.tied)
        self.untied = untied
        self.equal = self.tied | {tensor.also: tensor.name for tensor in self.tensors.values() if tensor.also}
        for path in (path for tensor in self.tensors.values() for path in tensor.paths):
            if path not in self._flat:
                raise UserError(f"params are not those of the model: they have no {path}; {nearest(path, self._flat)}")
        self._layers = {
            self._names.bare(tensor.name.removesuffix(".weight")): self._layer(tensor)
            for tensor in self.tensors.values()
            if tensor.paths[0].endswith(("/kernel", "/embedding"))
        }
        self._modules = {path: layer for layer in self._layers.values() for path in layer.paths}

    def dense(self, module: str) -> Layer:
        """The transformers module of this name, a dense layer. The name may lack the body's prefix.

        Raises:
            UserError: there is none.
        """
        return self._find(module, "dense layer", [one for one in self._layers.values() if not one.table])

    def embedding(self, module: str) -> Layer:
        """The transformers module of this name, an embedding.

        Raises:
            UserError: there is none.
        """
        return self._find(module, "embedding", [one for one in self._layers.values() if one.table])

    def find(self, module: str) -> Layer:
        """The transformers module of this name, a dense layer or an embedding.

        Raises:
            UserError: there is none.
        """
        return self._find(module, "dense layer or embedding", list(self._layers.values()))

    def at(self, path: str) -> Layer:
        """The transformers module that computes our dense layer at this path, or has the table."""
        return self._modules[path]

    def name(self, given: str) -> str | None:
        """A tensor's full name, given with the body's prefix or without; None if there is no such tensor."""
        names = {self._names.bare(name): name for name in (*self.tensors, *self.equal)}
        return names.get(self._names.bare(given))

    def bare(self, name: str) -> str:
        """The name of a tensor or module without the body's prefix."""
        return self._names.bare(name)

    def bias(self, layer: Layer) -> Tensor | None:
        """The bias of a layer; None if it has none."""
        return self.tensors.get(f"{layer.name}.bias")

    def parameter(self, path: str) -> np.ndarray:
        """Our parameter at this path."""
        return np.asarray(self._flat[path])

    def value(self, name: str) -> np.ndarray:
        """The tensor of this name, laid out as in transformers."""
        tensor = self.tensors[self.equal.get(name, name)]
        pieces = [self.parameter(path) for path in tensor.paths]
        whole = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        return whole.T if tensor.transpose else whole

    def split(self, name: str, whole: np.ndarray) -> dict[str, np.ndarray]:
        """A tensor of transformers as our parameters, by path."""
        tensor = self.tensors[name]
        whole = whole.T if tensor.transpose else whole
        return dict(zip(tensor.paths, tensor.split(whole), strict=True))

    def _find(self, module: str, what: str, layers: Sequence[Layer]) -> Layer:
        found = next((one for one in layers if self.bare(one.name) == self.bare(module)), None)
        if found is None:
            raise UserError(f"{module} is not a {what} of this model; {nearest(module, [one.name for one in layers])}")
        return found

    def _layer(self, tensor: Tensor) -> Layer:
        paths = tuple(path.removesuffix("/kernel") for path in tensor.paths)
        kernels = tuple(self._flat[path] for path in tensor.paths)
        return Layer(tensor.name.removesuffix(".weight"), paths, kernels, tensor.transpose)
