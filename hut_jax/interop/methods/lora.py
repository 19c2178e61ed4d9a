"""LoRA with its variants, rsLoRA and DoRA among them, and AdaLoRA, which is LoRA once it is trained."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layer, Layers
from hut_jax.interop.methods.base import Arrays, Own, Part, Written, fan_in_fan_out
from hut_jax.interop.methods.fused_layers import separated
from hut_jax.interop.methods.low_rank import LowRank, with_pattern
from hut_jax.transforms import DoRA, LoRA, Transform

MAGNITUDES = "lora_magnitude_vector"


class LORA(LowRank):
    """LoRA, rsLoRA and DoRA, which are one method in PEFT. Some of its variants differ only in training."""

    peft_type = "LORA"
    known = frozenset(
        {
            *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "lora_dropout", "use_rslora", "use_dora", "bias"),
            *("lora_bias", "init_lora_weights", "fan_in_fan_out", "runtime_config", "target_parameters"),
            *("trainable_token_indices", "ensure_weight_tying", "use_bdlora"),
            *("megatron_core", "qalora_group_size"),  # have defaults, and no effect unless other fields are set
            *("eva_config", "corda_config", "lora_ga_config", "loftq_config"),  # of what `init_lora_weights` names
            *("velora_config", "monteclora_config"),  # of another backward pass, and of noise in training
        }
    )
    trained_only = ("lora_velora_", "lora_monteclora_")

    matrices: ClassVar[dict[str, str]] = {"a": "lora_A.weight", "b": "lora_B.weight"}
    tables: ClassVar[dict[str, str]] = {"a": "lora_embedding_A", "b": "lora_embedding_B"}

    def endings(self, fields: Fields) -> dict[str, str]:
        """With the magnitudes of DoRA, and with what B's bias adds to the layer's."""
        more = {MAGNITUDES: "m"} if fields.flag("use_dora") else {}
        return super().endings(fields) | more | ({"lora_B.bias": "shift"} if fields.flag("lora_bias") else {})

    def required(self, given: Arrays, fields: Fields) -> set[str]:
        """With the magnitudes of DoRA."""
        return super().required(given, fields) | ({"m"} if fields.flag("use_dora") else set())

    def check(self, fields: Fields) -> None:
        """Check the initialisation too, since it may have changed the base."""
        super().check(fields)
        fields.one_of("bias", ("none", "all", "lora_only"), "none", "valid: 'none', 'all', 'lora_only'")
        fields.check_initialisation()

    def plain(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> tuple[Layer, Arrays]:
        """With blocks put on a diagonal, and with factors of a parameter turned into those of its layer."""
        given = {name: tensor for name, tensor in given.items() if name != "shift"}
        if fields.of_parameter(module):
            layer = layers.find(module)
            # These are factors of the parameter as torch keeps it, `[out, in]` for its Linear alone.
            plain = given if layer.linear else {"a": given["b"].T, "b": given["a"].T}
            return layer, plain
        layer, plain = super().plain(module, given, layers, fields)
        blocks = _blocks(fields)
        if blocks > 1:
            rank = self.rank(module, plain, fields)
            for name, inputs in (("a", layer.inputs), ("b", rank)):
                if plain[name].ndim == 2 and plain[name].shape[1] * blocks == inputs:
                    plain[name] = _on_diagonal(plain[name], blocks)
        return layer, plain

    def ours(self, layer: Layer, given: Arrays) -> dict[str, Arrays]:
        """With the magnitudes of DoRA, as deviations from the norms of the kernel."""
        factors = {name: given[name].T for name in ("a", "b")}
        if "m" in given:
            norms = _norms(layer)
            # Where the norm is unchanged, the deviation is exactly zero, not m's rounding error.
            unchanged = given["m"] == norms.astype(np.float32)
            factors["g"] = np.where(unchanged, 0, given["m"] / norms - 1).astype(np.float32)
        return separated(layer, factors)

    def shifts(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> Arrays:
        """What the bias of B adds to the layer's, scaled as the product is."""
        if "shift" not in given:
            return {}
        layer = layers.dense(module)
        bias = layers.bias(layer)
        if bias is None:
            raise UserError(
                f"lora_bias gives {module} a bias, and its layer has none, here and in PEFT's merged models; leave "
                "it out of target_modules, or train with lora_bias=False"
            )
        if given["shift"].shape != (layer.outputs,):
            raise UserError(f"{module}.lora_B.bias is {list(given['shift'].shape)}, not {[layer.outputs]}")
        shift = given["shift"] * np.float32(self.scale(module, fields.rank(module, 8), fields))
        return layers.split(bias.name, shift)

    def scale(self, module: str, rank: int, fields: Fields) -> float:
        """`lora_alpha` divided by r or by its square root."""
        return fields.alpha(module, "lora_alpha", 8) / self.divisor(rank, fields.flag("use_rslora"))

    def make(self, rank: int, alpha: float, fields: Fields) -> Transform:
        """LoRA or DoRA."""
        made = DoRA if fields.flag("use_dora") else LoRA
        return made(rank, alpha, rs=fields.flag("use_rslora"), dropout=fields.number("lora_dropout", 0.0))

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """With the magnitudes of DoRA. Layers of a fused module without factors keep the norms of their kernels."""
        written = super().write(module, own, layers)
        if not isinstance(next(iter(own.values())).transform, DoRA):
            return written
        if f"{module}.weight" in layers.tied.values():
            raise UserError(
                f"PEFT's DoRA on {module} leaves the head that is tied to it as it was, and this one does not"
            )
        layer = layers.find(module)
        m = _norms(layer)
        for path, columns in layer.columns():
            if path in own:
                m[columns] *= 1 + own[path].factors["g"].astype(np.float64)
        return written._replace(tensors=written.tensors | {MAGNITUDES: m.astype(np.float32)})

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """As `Method.describe`."""
        assert isinstance(transform, LoRA)
        alphas = {module: one.alpha for module, one in written.items()}
        return {
            **self.ranks(written),
            **with_pattern("lora_alpha", "alpha_pattern", alphas),
            "lora_dropout": transform.dropout,
            "use_rslora": transform.rs,
            "use_dora": isinstance(transform, DoRA),
            "fan_in_fan_out": fan_in_fan_out(written),
            "bias": "none",
        }


class ADALORA(LORA):
    """AdaLoRA. What it has learned is LoRA: the singular values are multiplied into A. It is written as LoRA."""

    peft_type = "ADALORA"
    known = LORA.known - {"lora_bias", "use_dora", "use_bdlora", "target_parameters"} | {
        *("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
    }
    matrices: ClassVar[dict[str, str]] = {"a": "lora_A", "b": "lora_B", "e": "lora_E"}
    tables: ClassVar[dict[str, str]] = {}

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """As `Method.read`. A module whose rank has become 0 has no factors."""
        return super().read(module, given, layers, fields) if given["a"].size else []

    def plain(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> tuple[Layer, Arrays]:
        """With the singular values in A."""
        a, e = given["a"], given["e"]
        if e.shape != (*a.shape[:1], 1):
            raise UserError(f"{module}.lora_E is {list(e.shape)}, and its lora_A {list(a.shape)}")
        return super().plain(module, {"a": a * e, "b": given["b"]}, layers, fields)

    def rank(self, module: str, given: Arrays, fields: Fields) -> int:
        """The rank of the matrices, which AdaLoRA chooses for each module."""
        return given["a"].shape[0] if given["a"].ndim == 2 else fields.rank(module, 8)

    def scale(self, module: str, rank: int, fields: Fields) -> float:
        """`lora_alpha` divided by the rank at the start, whatever has become of it."""
        start = fields.number("init_r", 12)
        return (fields.number("lora_alpha", 8) or start) / (start + 1e-5)

    def divisor(self, rank: int, rs: bool) -> float:
        """The rank, since AdaLoRA has no rsLoRA."""
        return rank

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """As `Method.settle`."""
        if not parts:
            raise UserError("all ranks are 0: this AdaLoRA changes nothing")
        return super().settle(parts, fields)

    def make(self, rank: int, alpha: float, fields: Fields) -> Transform:
        """LoRA."""
        return LoRA(rank, alpha, dropout=fields.number("lora_dropout", 0.0))


def _blocks(fields: Fields) -> int:
    """The number of blocks of BD-LoRA's matrices; 1 for other variants."""
    value = fields.raw("use_bdlora")
    if not value:
        return 1
    blocks = value.get("nblocks", 1) if isinstance(value, dict) else None
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise UserError(f"'use_bdlora' must have a whole number of blocks, 'nblocks', not {value!r}")
    return blocks


def _on_diagonal(matrix: np.ndarray, blocks: int) -> np.ndarray:
    """The blocks, which are given one above the other, on the diagonal of a matrix of zeros."""
    rows, columns = matrix.shape[0] // blocks, matrix.shape[1]
    whole = np.zeros((matrix.shape[0], columns * blocks), matrix.dtype)
    for i in range(blocks):
        whole[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = matrix[i * rows : (i + 1) * rows]
    return whole


def _norms(layer: Layer) -> np.ndarray:
    """The norm of each output's weights, `[k]`."""
    norms = np.concatenate([np.linalg.norm(np.asarray(kernel, np.float64), axis=0) for kernel in layer.kernels])
    if not norms.all():
        raise UserError(f"{layer.name} has outputs whose weights are all zero: PEFT's DoRA divides by their norm")
    return norms
