"""IA3, LayerNorm tuning and trainable tokens in PEFT's files."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layer, Layers
from hut_jax.interop.methods.base import ROWS, Arrays, Method, Own, Part, Written, fan_in_fan_out
from hut_jax.interop.modules_to_save import unused_biases
from hut_jax.interop.tensors import Tensor
from hut_jax.transforms import IA3, Full, LayerNorm, Transform


class Scales(Method):
    """IA3. PEFT's are factors, `[k, 1]` for outputs and `[1, d]` for inputs; ours are deviations from 1."""

    peft_type = "IA3"
    known = frozenset({"feedforward_modules", "init_ia3_weights", "fan_in_fan_out"})

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`."""
        return {"ia3_l": "l"}

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """The shape tells whether inputs or outputs are scaled; `feedforward_modules` is not needed for it."""
        layer = layers.dense(module)
        sides = {(layer.outputs, 1): "output", (1, layer.inputs): "input"}
        shape = given["l"].shape
        if shape not in sides or len(sides) == 1:
            raise UserError(
                f"{module}.ia3_l is {list(shape)}; this layer needs {[layer.outputs, 1]} for its outputs or "
                f"{[1, layer.inputs]} for its inputs, and the two must differ"
            )
        deviations = given["l"].reshape(-1) - 1
        if sides[shape] == "input":
            return [Part(path, {"l": deviations}, side="input") for path in layer.paths]
        parts = [Part(path, {"l": deviations[columns]}, side="output") for path, columns in layer.columns()]
        # A layer of a fused module that changes nothing was not a target, if another one changes something.
        return [part for part in parts if part.factors["l"].any()] or parts

    def shifts(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> Arrays:
        """What the scales of outputs do to a bias that is no part of our layer, as that of a masked-LM head."""
        layer = layers.dense(module)
        bias = _bias_elsewhere(layer, layers)
        if bias is None or given["l"].shape != (layer.outputs, 1):
            return {}
        return layers.split(bias.name, layers.value(bias.name) * (given["l"][:, 0] - 1))

    def unshifted(self, own: Mapping[str, Own], deviations: Arrays, layers: Layers) -> tuple[dict[str, Own], Arrays]:
        """Take from a bias that is no part of our layer what PEFT's scales of outputs do to it."""
        left = dict(deviations)
        for path, one in own.items():
            bias = _bias_elsewhere(layers.at(path), layers)
            transform: Any = one.transform
            if bias is None or transform.side != "output":
                continue
            base = layers.value(bias.name).astype(np.float32)
            now, (place,) = base + left.pop(bias.paths[0], np.zeros_like(base)), bias.paths
            before = now / (1 + one.factors["l"])
            if not np.allclose(before, base, rtol=1e-5, atol=1e-6):
                left[place] = before - base
        return dict(own), left

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """IA3, with its own pattern of feed-forward layers if it fits all parts."""
        usual = IA3()
        if all(usual.at(part.path).side == part.side for part in parts):
            return usual, {}
        inputs = [re.escape(part.path) for part in parts if part.side == "input"]
        return IA3(feedforward=f"^({'|'.join(inputs)})$" if inputs else ""), {}

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """As `Method.write`."""
        layer = layers.dense(module)
        transforms: list[Any] = [one.transform for one in own.values()]
        sides = {transform.side for transform in transforms}
        if sides == {"output"}:
            scale = np.ones((layer.outputs, 1), np.float32)
            for path, columns in layer.columns():
                if path in own:
                    scale[columns, 0] += own[path].factors["l"]
            return Written({"ia3_l": scale}, side="output", linear=layer.linear)
        first = next(iter(own.values())).factors["l"]
        if (
            len(sides) > 1
            or len(own) < len(layer.paths)
            or any((one.factors["l"] != first).any() for one in own.values())
        ):
            raise UserError(
                f"{module} is one module in PEFT, and its IA3 must scale the inputs of {', '.join(layer.paths)} alike"
            )
        return Written({"ia3_l": (1 + first)[None]}, side="input", linear=layer.linear)

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """As `Method.describe`."""
        return {
            "feedforward_modules": [module for module, one in written.items() if one.side == "input"],
            "fan_in_fan_out": fan_in_fan_out(written),
        }


class Norms(Method):
    """LayerNorm tuning. PEFT's are whole norms; ours are deviations from the base's."""

    peft_type = "LN_TUNING"
    optional = frozenset({"bias"})

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`."""
        return {f"ln_tuning_layers.{leaf}": leaf for leaf in ("weight", "bias")}

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """As `Method.read`."""
        paths = layers.norm(module)
        parts = []
        for leaf, tensor in given.items():
            base = layers.parameter(paths[leaf])
            if tensor.shape != base.shape:
                raise UserError(f"{module}.ln_tuning_layers.{leaf} is {list(tensor.shape)}, not {list(base.shape)}")
            parts.append(Part(paths[leaf], {"d": tensor - base.astype(np.float32)}))
        return parts

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """LayerNorm, which has no ranks."""
        return LayerNorm(), {}

    def target(self, path: str, layers: Layers) -> str:
        """The norm's module."""
        return layers.norm_at(path.rpartition("/")[0])

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """Both tensors of the norm. One that was not trained is the base's."""
        tensors = {}
        for leaf, path in layers.norm(module).items():
            tensors[f"ln_tuning_layers.{leaf}"] = layers.parameter(path).astype(np.float32)
            if path in own:
                tensors[f"ln_tuning_layers.{leaf}"] += own[path].factors["d"]
        return Written(tensors)

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """No fields."""
        return {}


class Tokens(Method):
    """Trainable tokens: some rows of embeddings, the same in each. Ours are deviations of whole tables."""

    peft_type = "TRAINABLE_TOKENS"
    known = frozenset({"token_indices", "init_weights"})
    factors = False
    saves_whole = False

    def endings(self, fields: Fields) -> dict[str, str]:
        """None but the rows."""
        return {}

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """Full fine-tuning, of the tables."""
        return Full(), {}

    def unshifted(self, own: Mapping[str, Own], deviations: Arrays, layers: Layers) -> tuple[dict[str, Own], Arrays]:
        """Without the biases of heads, which PEFT leaves out where rows train."""
        heads = unused_biases([f"{self.target(path, layers)}.weight" for path in own if not _is_bias(path)], layers)
        gone = {path for name in heads for path in layers.tensors[name].paths}
        for path in gone & own.keys():
            if (layers.parameter(path) + own[path].factors["d"]).any():
                raise UserError(f"PEFT leaves out the bias {path} where rows of its head train")
        return {path: one for path, one in own.items() if path not in gone}, dict(deviations)

    def target(self, path: str, layers: Layers) -> str:
        """The embedding, or the head.

        Raises:
            UserError: it is another parameter.
        """
        name = next((name for name, tensor in layers.tensors.items() if path in tensor.paths), "")
        heads = [kernel for kernel, _ in layers.untied]
        if not path.endswith("/embedding") and path not in heads:
            raise UserError("PEFT has no full")
        if path in [table for _, table in layers.untied]:
            raise UserError(f"PEFT ties the head to the rows of {name}, and here they are apart")
        return name.removesuffix(".weight")

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """The whole tensor and the rows that changed, of which `even` keeps those that changed anywhere."""
        (one,) = own.values()
        base = layers.value(f"{module}.weight").astype(np.float32)
        d = one.factors["d"] if layers.find(module).table else one.factors["d"].T
        return Written({ROWS: base + d}, indices=tuple(map(int, np.flatnonzero(d.any(axis=1)))))

    def even(self, written: Mapping[str, Written], layers: Layers) -> dict[str, Written]:
        """All modules with the same rows."""
        indices = sorted({index for one in written.values() for index in one.indices}) or [0]
        for module, one in written.items():
            if indices[-1] >= len(one.tensors[ROWS]):
                raise UserError(f"PEFT trains the same rows in each module, and {module} has no row {indices[-1]}")
        return {
            module: one._replace(tensors={ROWS: one.tensors[ROWS][indices]}, indices=tuple(indices))
            for module, one in written.items()
        }

    def beside(self, tensors: Arrays, layers: Layers) -> Arrays:
        """The rows of heads that are tied to the embedding."""
        names = {_rows(head): _rows(table) for head, table in layers.tied.items()}
        return {head: tensors[table] for head, table in names.items() if table in tensors and head not in tensors}

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """The rows."""
        return {"token_indices": list(next(iter(written.values())).indices)}


def _rows(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.{ROWS}"


def _bias_elsewhere(layer: Layer, layers: Layers) -> Tensor | None:
    """The bias of a layer of PEFT's that is no part of ours, as that of a masked-LM head; None if there is none."""
    bias = layers.bias(layer)
    return None if bias is None or bias.paths == tuple(f"{path}/bias" for path in layer.paths) else bias


def _is_bias(path: str) -> bool:
    return path.rpartition("/")[2] == "bias"
