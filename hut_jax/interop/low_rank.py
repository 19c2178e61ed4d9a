"""LoRA, DoRA, HiRA and LoHa in PEFT's files.

Their matrices are ours transposed: `lora_A: [r, d]` is our `a: [d, r]`, `lora_B: [k, r]` our `b: [r, k]`. Our alpha is
one for all layers, so a scaling that differs between layers is multiplied into b.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import MERGE_THERE, Fields
from hut_jax.interop.fused_layers import joined, separated
from hut_jax.interop.layers import Layer, Layers
from hut_jax.interop.method import Arrays, Method, Own, Part, Written, exactly
from hut_jax.transforms import DoRA, HiRA, LoHa, LoRA, Transform

MAGNITUDES = "lora_magnitude_vector"

_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")  # those that leave the base as it is


class LowRank(Method):
    """Products of thin matrices. Names of ours that begin with a are of inputs, those with b of outputs."""

    matrices: ClassVar[dict[str, str]]
    """A module's matrices: our name -> the end of PEFT's name."""

    last: ClassVar[str] = "b"
    """The factor into which a scaling is multiplied."""

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`."""
        return self.matrices

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """As `Method.read`."""
        layer = layers.dense(module)
        rank = self.rank(module, given, fields)
        for name, ending in self.endings(fields).items():
            wanted = {"a": (rank, layer.inputs), "b": (layer.outputs, rank), "m": (layer.outputs,)}[name[0]]
            if given[name].shape != wanted:
                raise UserError(
                    f"{module}.{ending} is {list(given[name].shape)}; rank {rank} on this layer needs {list(wanted)}"
                )
        scale = self.scale(module, rank, fields)
        return [Part(path, factors, scale) for path, factors in self.ours(layer, given).items()]

    def ours(self, layer: Layer, given: Arrays) -> dict[str, Arrays]:
        """The factors of our layers in a module, by path."""
        return separated(layer, {name: tensor.T for name, tensor in given.items()})

    def rank(self, module: str, given: Arrays, fields: Fields) -> int:
        """The module's rank, from the fields."""
        return fields.rank(module, 8)

    def scale(self, module: str, rank: int, fields: Fields) -> float:
        """The scaling of the product in PEFT."""
        return 1.0

    def divisor(self, rank: int, rs: bool) -> float:
        """The divisor that turns alpha into the scaling."""
        return math.sqrt(rank) if rs else rank

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """The parts, all with the most frequent alpha.

        A part may have had another alpha. Its factor `last` is then multiplied by that alpha divided by the common one.
        So the part's scaled product stays the same.
        """
        rs = fields.flag("use_rslora")
        divisors = [self.divisor(_rank(part), rs) for part in parts]
        alphas = [_tidy(part.scale * divisor) for part, divisor in zip(parts, divisors, strict=True)]
        alpha = _most([alpha for alpha in alphas if alpha] or alphas)
        settled = []
        for part, own, divisor in zip(parts, alphas, divisors, strict=True):
            if own != alpha:
                last = part.factors[self.last] * np.float32(own / alpha)
                part = part._replace(factors=part.factors | {self.last: last}, scale=alpha / divisor)
            settled.append(part)
        return settled

    def transform(self, parts: Sequence[Part], fields: Fields) -> tuple[Transform, dict[str, int]]:
        """As `Method.transform`."""
        rank = _most([_rank(part) for part in parts])
        alpha = _tidy(parts[0].scale * self.divisor(_rank(parts[0]), fields.flag("use_rslora")))
        others = {exactly([part.path])[0]: _rank(part) for part in parts if _rank(part) != rank}
        return self.make(rank, alpha, fields), others

    def make(self, rank: int, alpha: float, fields: Fields) -> Transform:
        """The transformation of this rank and alpha."""
        raise NotImplementedError

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """As `Method.write`."""
        layer = layers.dense(module)
        transform: Any = next(iter(own.values())).transform
        if len(layer.paths) == 1:
            (one,) = own.values()
            factors, scale = one.factors, getattr(transform, "scaling", 1.0)
        else:
            scales = {path: getattr(one.transform, "scaling", 1.0) for path, one in own.items()}
            factors, scale = joined(layer, {path: one.factors for path, one in own.items()}, scales)
        rank = next(factor.shape[1] for name, factor in factors.items() if name.startswith("a"))
        alpha = _tidy(scale * self.divisor(rank, getattr(transform, "rs", False)))
        tensors = {ending: factors[name].T for name, ending in self.matrices.items()}
        return Written(tensors, rank, alpha, linear=layer.linear)

    def ranks(self, written: Mapping[str, Written]) -> dict[str, Any]:
        """`r`, and `rank_pattern` if modules differ."""
        ranks = {module: one.rank for module, one in written.items()}
        return _with_pattern("r", "rank_pattern", ranks)


class LORA(LowRank):
    """LoRA, rsLoRA and DoRA, which are one method in PEFT."""

    peft_type = "LORA"
    known = frozenset(
        {
            *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "lora_dropout", "use_rslora", "use_dora", "bias"),
            *("init_lora_weights", "fan_in_fan_out", "runtime_config"),
            *("megatron_core", "qalora_group_size"),  # have defaults, and no effect unless other fields are set
            *("eva_config", "corda_config", "lora_ga_config"),  # of initialisations that `init_lora_weights` names
        }
    )

    matrices: ClassVar[dict[str, str]] = {"a": "lora_A.weight", "b": "lora_B.weight"}

    def endings(self, fields: Fields) -> dict[str, str]:
        """With the magnitudes of DoRA."""
        return self.matrices | ({"m": MAGNITUDES} if fields.flag("use_dora") else {})

    def check(self, fields: Fields) -> None:
        """Check the initialisation too, since it may have changed the base."""
        super().check(fields)
        fields.one_of(
            "bias", ("none",), "none", f"biases train only in our bitfit, without other factors; {MERGE_THERE}"
        )
        fields.one_of(
            "init_lora_weights",
            _INITS,
            True,
            "this initialisation changes the base; convert the adapter in PEFT, save_pretrained(folder, "
            "path_initial_model_for_weight_conversion=...)",
        )

    def ours(self, layer: Layer, given: Arrays) -> dict[str, Arrays]:
        """With the magnitudes of DoRA, as deviations from the norms of the kernel."""
        factors = {name: given[name].T for name in ("a", "b")}
        if "m" in given:
            norms = _norms(layer)
            # Where the norm is unchanged, the deviation is exactly zero, not m's rounding error.
            unchanged = given["m"] == norms.astype(np.float32)
            factors["g"] = np.where(unchanged, 0, given["m"] / norms - 1).astype(np.float32)
        return separated(layer, factors)

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
        layer = layers.dense(module)
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
            **_with_pattern("lora_alpha", "alpha_pattern", alphas),
            "lora_dropout": transform.dropout,
            "use_rslora": transform.rs,
            "use_dora": isinstance(transform, DoRA),
            "fan_in_fan_out": not any(one.linear for one in written.values()),
            "bias": "none",
        }


class HIRA(LowRank):
    """HiRA."""

    peft_type = "HIRA"
    known = frozenset({"r", "rank_pattern", "hira_dropout", "init_weights", "fan_in_fan_out"})
    matrices: ClassVar[dict[str, str]] = {"a": "hira_A", "b": "hira_B"}

    def rank(self, module: str, given: Arrays, fields: Fields) -> int:
        """The rank of the matrices. PEFT 0.21 ignores HiRA's `rank_pattern`, and HiRA has no scaling that needs `r`."""
        return given["a"].shape[0] if given["a"].ndim == 2 else fields.rank(module, 32)

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """The parts unchanged, since HiRA has no scaling."""
        return list(parts)

    def make(self, rank: int, alpha: float, fields: Fields) -> Transform:
        """HiRA."""
        return HiRA(rank)

    def even(self, written: Mapping[str, Written]) -> dict[str, Written]:
        """All modules padded with zeros to the largest rank, since PEFT's HiRA has one rank for all."""
        most = max(one.rank for one in written.values())
        evened = {}
        for module, one in written.items():
            more = most - one.rank
            a, b = (one.tensors[ending] for ending in self.matrices.values())
            tensors = [np.pad(a, ((0, more), (0, 0))), np.pad(b, ((0, 0), (0, more)))]
            evened[module] = one._replace(rank=most, tensors=dict(zip(self.matrices.values(), tensors, strict=True)))
        return evened

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """As `Method.describe`."""
        return {**self.ranks(written), "fan_in_fan_out": not any(one.linear for one in written.values())}


class LOHA(LowRank):
    """LoHa, which PEFT has for Linear only."""

    peft_type = "LOHA"
    known = frozenset(
        {
            *("r", "rank_pattern", "alpha", "alpha_pattern", "init_weights"),
            *("rank_dropout", "module_dropout"),
            "use_effective_conv2d",
        }
    )
    matrices: ClassVar[dict[str, str]] = {
        "a1": "hada_w1_b",
        "b1": "hada_w1_a",
        "a2": "hada_w2_b",
        "b2": "hada_w2_a",
    }
    last = "b2"

    def scale(self, module: str, rank: int, fields: Fields) -> float:
        """`alpha` divided by r."""
        return fields.alpha(module, "alpha", 8) / rank

    def ours(self, layer: Layer, given: Arrays) -> dict[str, Arrays]:
        """As `LowRank.ours`."""
        _only_linear(layer)
        return super().ours(layer, given)

    def make(self, rank: int, alpha: float, fields: Fields) -> Transform:
        """LoHa."""
        return LoHa(rank, alpha)

    def write(self, module: str, own: Mapping[str, Own], layers: Layers) -> Written:
        """As `Method.write`."""
        _only_linear(layers.dense(module))
        return super().write(module, own, layers)

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """As `Method.describe`."""
        alphas = {module: one.alpha for module, one in written.items()}
        return {**self.ranks(written), **_with_pattern("alpha", "alpha_pattern", alphas)}


def _only_linear(layer: Layer) -> None:
    if not layer.linear:
        raise UserError(f"{layer.name} is a Conv1D, for which PEFT has no LoHa")


def _norms(layer: Layer) -> np.ndarray:
    """The norm of each output's weights, `[k]`."""
    norms = np.concatenate([np.linalg.norm(np.asarray(kernel, np.float64), axis=0) for kernel in layer.kernels])
    if not norms.all():
        raise UserError(f"{layer.name} has outputs whose weights are all zero: PEFT's DoRA divides by their norm")
    return norms


def _rank(part: Part) -> int:
    return next(factor.shape[-1] for name, factor in part.factors.items() if name.startswith("a"))


def _most(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _tidy(value: float) -> float:
    """The value without its last digits, the rounding errors of converting alpha to the scaling and back."""
    return float(f"{value:.12g}")


def _with_pattern(name: str, patterns: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A field with the most frequent value, and the exceptions by module."""
    whole = {module: int(value) if value == int(value) else value for module, value in values.items()}
    most = _most(list(whole.values()))
    return {name: most, patterns: {module: value for module, value in whole.items() if value != most}}
