"""IA3 and LayerNorm tuning in PEFT's files."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layers
from hut_jax.interop.method import Arrays, Method, Own, Part, Written
from hut_jax.transforms import IA3, LayerNorm, Transform


class Scales(Method):
    """IA3. PEFT's are factors, `[k, 1]` for outputs and `[1, d]` for inputs; ours are deviations from 1."""

    peft_type = "IA3"
    known = frozenset({"feedforward_modules", "init_ia3_weights", "fan_in_fan_out"})

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`."""
        return {"l": "ia3_l"}

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
            "fan_in_fan_out": not any(one.linear for one in written.values()),
        }


class Norms(Method):
    """LayerNorm tuning. PEFT's are whole norms; ours are deviations from the base's."""

    peft_type = "LN_TUNING"
    optional = frozenset({"bias"})

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`."""
        return {leaf: f"ln_tuning_layers.{leaf}" for leaf in ("weight", "bias")}

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
