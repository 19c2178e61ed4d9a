"""Low-rank factors in PEFT's files, and HiRA and LoHa, which have some.

PEFT's matrices are ours transposed: `lora_A: [r, d]` is our `a: [d, r]`, `lora_B: [k, r]` our `b: [r, k]`. An embedding
is a kernel `[d, k]` with an id for each input. Our alpha is one for all layers, so a scaling that differs between
layers is multiplied into b.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.interop.adapter_config import Fields
from hut_jax.interop.layers import Layer, Layers
from hut_jax.interop.methods.base import Arrays, Method, Own, Part, Written, exactly, fan_in_fan_out
from hut_jax.interop.methods.fused_layers import joined, separated
from hut_jax.transforms import HiRA, LoHa, Transform

_OF_TABLE = "table_"


class LowRank(Method):
    """Products of thin matrices. Names of ours that begin with a are of inputs, those with b of outputs."""

    matrices: ClassVar[dict[str, str]]
    """A dense module's matrices: our name -> the end of PEFT's name."""

    tables: ClassVar[dict[str, str]] = {}
    """An embedding's matrices, in the same way."""

    last: ClassVar[str] = "b"
    """The factor into which a scaling is multiplied."""

    def endings(self, fields: Fields) -> dict[str, str]:
        """As `Method.endings`. Our names of an embedding's matrices have a prefix here."""
        of_tables = {ending: f"{_OF_TABLE}{name}" for name, ending in self.tables.items()}
        return {ending: name for name, ending in self.matrices.items()} | of_tables

    def required(self, given: Arrays, fields: Fields) -> set[str]:
        """A dense module's matrices or an embedding's."""
        of_table = any(name.startswith(_OF_TABLE) for name in given)
        return {name for name in super().required(given, fields) if name.startswith(_OF_TABLE) == of_table}

    def read(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> list[Part]:
        """As `Method.read`."""
        endings = {name: ending for ending, name in self.endings(fields).items()}
        layer, plain = self.plain(module, given, layers, fields)
        rank = self.rank(module, plain, fields)
        for name, tensor in plain.items():
            wanted = {"a": (rank, layer.inputs), "b": (layer.outputs, rank)}.get(name[0], (layer.outputs,))
            if tensor.shape != wanted:
                ending = endings[name if name in given else f"{_OF_TABLE}{name}"]
                raise UserError(
                    f"{module}.{ending} is {list(tensor.shape)}; rank {rank} on this layer needs {list(wanted)}"
                )
        scale = self.scale(module, rank, fields)
        return [Part(path, factors, scale) for path, factors in self.ours(layer, plain).items()]

    def plain(self, module: str, given: Arrays, layers: Layers, fields: Fields) -> tuple[Layer, Arrays]:
        """The layer, and its matrices by our names, as those of the plain method."""
        of_table = any(name.startswith(_OF_TABLE) for name in given)
        layer = layers.embedding(module) if of_table else layers.dense(module)
        return layer, {name.removeprefix(_OF_TABLE): tensor for name, tensor in given.items()}

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

    def mirrored(self, table: str, own: Arrays, head: str, others: Arrays, fields: Fields) -> bool:
        """Whether the head's matrices are the table's, transposed, with the same scaling."""
        if set(self.matrices) != {"a", "b"} or own.keys() != {"table_a", "table_b"} or others.keys() != {"a", "b"}:
            return False
        scales = {self.scale(module, self.rank(module, others, fields), fields) for module in (table, head)}
        a, b = own["table_a"].T, own["table_b"].T
        return len(scales) == 1 and np.array_equal(others["a"], b) and np.array_equal(others["b"], a)

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
        layer = layers.find(module)
        transform: Any = next(iter(own.values())).transform
        if len(layer.paths) == 1:
            (one,) = own.values()
            factors, scale = one.factors, getattr(transform, "scaling", 1.0)
        else:
            scales = {path: getattr(one.transform, "scaling", 1.0) for path, one in own.items()}
            factors, scale = joined(layer, {path: one.factors for path, one in own.items()}, scales)
        rank = next(factor.shape[1] for name, factor in factors.items() if name.startswith("a"))
        alpha = _tidy(scale * self.divisor(rank, getattr(transform, "rs", False)))
        names = self.tables if layer.table else self.matrices
        tensors = {ending: factors[name].T for name, ending in names.items()}
        return Written(tensors, rank, alpha, linear=None if layer.table else layer.linear)

    def even(self, written: Mapping[str, Written], layers: Layers) -> dict[str, Written]:
        """With a tied head's matrices for those of its table, since PEFT's two modules have their own."""
        evened = dict(written)
        for head, table in layers.tied.items():
            name, module = (tensor.removesuffix(".weight") for tensor in (head, table))
            if module in written:
                a, b = (written[module].tensors[self.tables[ours]] for ours in ("a", "b"))
                tensors = {self.matrices["a"]: b.T, self.matrices["b"]: a.T}
                evened[name] = written[module]._replace(tensors=tensors, linear=True)
        return evened

    def ranks(self, written: Mapping[str, Written]) -> dict[str, Any]:
        """`r`, and `rank_pattern` if modules differ."""
        ranks = {module: one.rank for module, one in written.items()}
        return with_pattern("r", "rank_pattern", ranks)


class HIRA(LowRank):
    """HiRA."""

    peft_type = "HIRA"
    known = frozenset({"r", "rank_pattern", "hira_dropout", "init_weights", "fan_in_fan_out"})
    matrices: ClassVar[dict[str, str]] = {"a": "hira_A", "b": "hira_B"}
    tables: ClassVar[dict[str, str]] = {"a": "hira_embedding_A", "b": "hira_embedding_B"}

    def rank(self, module: str, given: Arrays, fields: Fields) -> int:
        """The rank of the matrices. PEFT 0.21 ignores HiRA's `rank_pattern`, and HiRA has no scaling that needs `r`."""
        return given["a"].shape[0] if given["a"].ndim == 2 else fields.rank(module, 32)

    def settle(self, parts: Sequence[Part], fields: Fields) -> list[Part]:
        """The parts unchanged, since HiRA has no scaling."""
        return list(parts)

    def make(self, rank: int, alpha: float, fields: Fields) -> Transform:
        """HiRA."""
        return HiRA(rank)

    def even(self, written: Mapping[str, Written], layers: Layers) -> dict[str, Written]:
        """All modules padded with zeros to the largest rank, since PEFT's HiRA has one rank for all."""
        most = max(one.rank for one in written.values())
        evened = {}
        for module, one in super().even(written, layers).items():
            more = most - one.rank
            a, b = one.tensors.values()
            tensors = [np.pad(a, ((0, more), (0, 0))), np.pad(b, ((0, 0), (0, more)))]
            evened[module] = one._replace(rank=most, tensors=dict(zip(one.tensors, tensors, strict=True)))
        return evened

    def describe(self, transform: Transform, written: Mapping[str, Written]) -> dict[str, Any]:
        """As `Method.describe`."""
        return {**self.ranks(written), "fan_in_fan_out": fan_in_fan_out(written)}


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
        return {**self.ranks(written), **with_pattern("alpha", "alpha_pattern", alphas)}


def _only_linear(layer: Layer) -> None:
    if not layer.linear:
        raise UserError(f"{layer.name} is a Conv1D, for which PEFT has no LoHa")


def _rank(part: Part) -> int:
    return next(factor.shape[-1] for name, factor in part.factors.items() if name.startswith("a"))


def _most(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _tidy(value: float) -> float:
    """The value without its last digits, the rounding errors of converting alpha to the scaling and back."""
    return float(f"{value:.12g}")


def with_pattern(name: str, patterns: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A field with the most frequent value, and the exceptions by module."""
    whole = {module: int(value) if value == int(value) else value for module, value in values.items()}
    most = _most(list(whole.values()))
    return {name: most, patterns: {module: value for module, value in whole.items() if value != most}}
