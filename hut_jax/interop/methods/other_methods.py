"""IA3, LayerNorm tuning and trainable tokens in PEFT's files."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layer, Layers
from hut_jax.interop.methods.base import ROWS, Arrays, Method, Own, Part, Written, fan_in_fan_out
from hut_jax.interop.modules_to_save import module_of, named, unused_biases, whole_tensor
from hut_jax.interop.tensors import Tensor
from hut_jax.transforms import IA3, Full, LayerNorm, Transform

_LEAVES = ("weight", "bias", "alpha_p", "alpha_n", "beta", "eps")  # the last four of activations that learn
_WHOLE = {f"ln_tuning_layers.{leaf}": leaf for leaf in _LEAVES}


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


class WholeModules(Method):
    """LayerNorm tuning, which in PEFT trains any modules whole. Ours are deviations from the base's."""

    peft_type = "LN_TUNING"
    whole = True

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`."""
        return dict(_WHOLE)

    def required(self, given: Arrays, fields: Fields) -> set[str]:
        """The weight, or both curvatures of an activation."""
        return {"alpha_p", "alpha_n"} if "alpha_p" in given else {"weight"}

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """As `Method.read`."""
        tensors = named({f"{module}.{leaf}": tensor for leaf, tensor in given.items()}, layers)
        parts = []
        for name, tensor in tensors.items():
            d = tensor - layers.value(name).astype(np.float32)
            parts += [Part(path, {"d": own}) for path, own in layers.split(layers.equal.get(name, name), d).items()]
        return parts

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """LayerNorm if all modules are norms, and otherwise full fine-tuning; neither has ranks."""
        norms = all(re.search(r"norm/(scale|bias)$", part.path) for part in parts)
        return LayerNorm() if norms else Full(), {}

    def unshifted(self, own: Mapping[str, Own], deviations: Arrays, layers: Layers) -> tuple[dict[str, Own], Arrays]:
        """With all parameters of the modules, which PEFT trains whole."""
        modules = {module_of(path, layers): one.transform for path, one in own.items()}
        of_them = {path: module for path in deviations if (module := module_of(path, layers)) in modules}
        more = {path: Own(modules[module], {"d": deviations[path]}) for path, module in of_them.items()}
        return {**own, **more}, {path: d for path, d in deviations.items() if path not in more}

    def target(self, path: str, layers: Layers) -> str:
        """The module of the parameter."""
        return module_of(path, layers)

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """All tensors of the module. One that was not trained is the base's."""
        deviations = {path: one.factors["d"] for path, one in own.items()}
        tensors = {
            ending: whole_tensor(f"{module}.{leaf}", deviations, layers)
            for ending, leaf in _WHOLE.items()
            if f"{module}.{leaf}" in layers.tensors.keys() | layers.equal.keys()
        }
        return Written(tensors)

    def mirrored(self, table: str, own: Arrays, head: str, others: Arrays, fields: Fields) -> bool:
        """Whether the head's kernel is the table, and the head has nothing else."""
        return others.keys() == {"weight"} and np.array_equal(own["weight"], others["weight"])

    def even(self, written: Mapping[str, Written], layers: Layers) -> dict[str, Written]:
        """With a tied head's module beside that of its table, since PEFT's two modules have their own tensors."""
        evened = dict(written)
        for head, table in layers.tied.items():
            name, module = (tensor.removesuffix(".weight") for tensor in (head, table))
            if module in written:
                tensors = written[name].tensors if name in written else self.write(name, {}, layers).tensors
                evened[name] = Written(tensors | written[module].tensors)
        return evened

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

    def fits(self, own: Mapping[str, Own], layers: Layers) -> bool:
        """Whether these are tables and heads that PEFT trains the rows of, with the biases that it leaves out."""
        heads, tables = ({pair[i] for pair in layers.untied} for i in (0, 1))
        rows = {path for path in own if path.endswith("/embedding") or path in heads}
        gone = self._gone(rows, layers)
        if not rows or not own.keys() <= rows | gone or not rows.isdisjoint(tables):  # PEFT ties heads to tables' rows
            return False
        written = [self.write(module_of(path, layers), {path: own[path]}, layers) for path in rows]
        last = max((index for one in written for index in one.indices), default=0)
        in_all = last < min(len(one.tensors[ROWS]) for one in written)  # PEFT trains the same rows in each module
        return in_all and not any((layers.parameter(path) + own[path].factors["d"]).any() for path in gone & own.keys())

    def unshifted(self, own: Mapping[str, Own], deviations: Arrays, layers: Layers) -> tuple[dict[str, Own], Arrays]:
        """Without the biases of heads, which PEFT leaves out where rows train."""
        gone = self._gone({path for path in own if not path.endswith("/bias")}, layers)
        return {path: one for path, one in own.items() if path not in gone}, dict(deviations)

    def target(self, path: str, layers: Layers) -> str:
        """The embedding, or the head."""
        return module_of(path, layers)

    def _gone(self, rows: Collection[str], layers: Layers) -> set[str]:
        heads = unused_biases([f"{module_of(path, layers)}.weight" for path in rows], layers)
        return {path for name in heads for path in layers.tensors[name].paths}

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """The whole tensor and the rows that changed, of which `even` keeps those that changed anywhere."""
        (one,) = own.values()
        base = layers.value(f"{module}.weight").astype(np.float32)
        d = one.factors["d"] if layers.find(module).table else one.factors["d"].T
        return Written({ROWS: base + d}, indices=tuple(map(int, np.flatnonzero(d.any(axis=1)))))

    def even(self, written: Mapping[str, Written], layers: Layers) -> dict[str, Written]:
        """All modules with the same rows."""
        indices = sorted({index for one in written.values() for index in one.indices}) or [0]
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
