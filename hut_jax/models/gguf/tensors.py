"""The tensors of a GGUF file under Hugging Face's names and in its layout, unpacked when they are requested."""

from typing import NamedTuple

import numpy as np

from hut_jax.core.errors import nearest
from hut_jax.models.gguf.architectures import ARCHITECTURES, ROTARY, Architecture
from hut_jax.models.gguf.blocks import unpack
from hut_jax.models.gguf.fields import Fields
from hut_jax.models.gguf.header import Stored


class _Source(NamedTuple):
    """Where a tensor of Hugging Face's is in the file, and what is to be undone."""

    stored: Stored
    heads: int = 0  # the rotary rows of so many heads are paired
    one_more: bool = False
    transposed: bool = False


class Tensors:
    """The tensors of a file.

    Attributes:
        architecture: of the model.
        shapes: Hugging Face's name of each tensor -> its shape.
        biases: fields of config.json that say whether modules have biases.
        tied: whether the head is the embedding.
    """

    def __init__(self, fields: Fields):
        """Match the names.

        Raises:
            UserError: the architecture is not supported, or the tensors are not those of the architecture.
        """
        kind = fields.architecture
        if kind not in ARCHITECTURES:
            raise fields.error(f"the architecture {kind!r} is not supported; {nearest(kind, ARCHITECTURES)}")
        self.architecture = ARCHITECTURES[kind]
        self._header = fields.header
        self._rows: dict[str, int] = {}
        if self.architecture.paired:
            heads = fields.whole("attention.head_count")
            self._rows = {"attn_q": heads, "attn_k": fields.whole("attention.head_count_kv", heads)}
        stored = dict(self._header.tensors)
        for name in [name for name in stored if name in ROTARY or name.endswith(".attn_rot_embd.weight")]:
            del stored[name]
        if self._same("output.weight", "token_embd.weight"):
            del stored["output.weight"]
        self.tied = "output.weight" not in stored
        expected, self.biases = _expected(self.architecture, fields.whole("block_count"), stored)
        missing = [name for name in expected if name not in stored]
        unknown = [name for name in stored if name not in expected]
        told = [
            f"{len(names)} {what}: {', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}"
            for what, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        if told:
            raise fields.error(f"its tensors are not those of the architecture {kind!r}: {'; '.join(told)}")
        self._sources = {name: self._source(theirs, stored[theirs]) for theirs, name in expected.items()}
        self.shapes = {name: self._shape(source) for name, source in self._sources.items()}
        for name, source in self._sources.items():
            rows = self.shapes[name][0]
            if source.heads and rows % (2 * source.heads):
                raise fields.error(f"{name} has {rows} rows, which {source.heads} heads do not share in pairs")

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor of this name, in float32 unless the file has other floats."""
        source = self._sources[name]
        whole = self._read(source.stored)
        if source.heads:
            pairs = whole.reshape(source.heads, -1, 2, *whole.shape[1:])
            whole = pairs.swapaxes(1, 2).reshape(whole.shape)
        if source.one_more:
            whole = whole.astype(np.float32) - np.float32(1)
        return whole.T if source.transposed else whole

    def stored(self, name: str) -> np.ndarray | None:
        """The tensor of this name with llama.cpp, as it is in the file; None if there is none."""
        return self._read(self._header.tensors[name]) if name in self._header.tensors else None

    def _read(self, stored: Stored) -> np.ndarray:
        raw = np.frombuffer(self._header.data, np.uint8, stored.size, stored.start)
        return unpack(raw, stored.kind, stored.shape)

    def _same(self, first: str, second: str) -> bool:
        tensors = self._header.tensors
        if first not in tensors or second not in tensors or tensors[first][:2] != tensors[second][:2]:
            return False
        a, b = (
            np.frombuffer(self._header.data, np.uint8, one.size, one.start) for one in (tensors[first], tensors[second])
        )
        return bool(np.array_equal(a, b))

    def _source(self, name: str, stored: Stored) -> _Source:
        module, _, leaf = name.rpartition(".")
        module = module.rpartition(".")[2]
        return _Source(
            stored,
            heads=self._rows.get(module, 0),
            one_more=self.architecture.one_more and name.endswith("norm.weight"),
            transposed=leaf == "weight" and module in self.architecture.transposed,
        )

    @staticmethod
    def _shape(source: _Source) -> tuple[int, ...]:
        return source.stored.shape[::-1] if source.transposed else source.stored.shape


def _expected(
    architecture: Architecture, layers: int, stored: dict[str, Stored]
) -> tuple[dict[str, str], dict[str, bool]]:
    """The tensors that the file should have, llama.cpp's names -> Hugging Face's, and which biases it has."""
    biased, biases = set(architecture.biased), {}
    for modules, name in architecture.may_be_biased.items():
        biases[name] = any(f"blk.0.{module}.bias" in stored for module in modules)
        biased |= modules if biases[name] else set()
    names = {}
    for theirs, ours in architecture.outside.items():
        if theirs != "output" or "output.weight" in stored:
            names[f"{theirs}.weight"] = f"{ours}.weight"
    if architecture.biased >= set(architecture.layer):  # GPT-2's norms have biases, the last one, too
        names["output_norm.bias"] = f"{architecture.outside['output_norm']}.bias"
    for i in range(min(layers, len(stored))):
        for theirs, ours in architecture.layer.items():
            for leaf in ("weight", "bias") if theirs in biased else ("weight",):
                names[f"blk.{i}.{theirs}.{leaf}"] = f"{architecture.layers}.{i}.{ours}.{leaf}"
    return names, biases
