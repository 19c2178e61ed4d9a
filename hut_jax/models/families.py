"""The families of models that can be loaded: for each its classes, and its tensors' Hugging Face names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn

from hut_jax.models.gpt2 import GPT2, GPT2Config


class Tensor(NamedTuple):
    """One tensor of a Hugging Face file and where it goes.

    Attributes:
        name: its name as transformers writes it.
        paths: our parameters, '/'-joined. Several: the last axis is split evenly among them, in this order.
        transpose: whether it is `[out, in]`, as torch's Linear has it, where Flax has `[in, out]`.
    """

    name: str
    paths: tuple[str, ...]
    transpose: bool = False


@dataclass(frozen=True)
class Family:
    """What loading and saving must know of a family.

    Attributes:
        config: the config's class, with `from_json` and `to_json`.
        model: the Linen class, with fields `config`, `dtype`, `remat` and `scan_layers`.
        architecture: the transformers class whose files these are.
        prefix: what some files' names begin with and others' (the bare body's) do not.
        tensors: a config's tensors.
        tied: a config's tensors that may be left out, since they equal another: name -> the other's name.
        dropped: names (without the prefix) of old files' buffers, which are no parameters.
    """

    config: Any
    model: type[nn.Module]
    architecture: str
    prefix: str
    tensors: Callable[[Any], list[Tensor]]
    tied: Callable[[Any], Mapping[str, str]]
    dropped: re.Pattern


def _gpt2_tensors(config: GPT2Config) -> list[Tensor]:
    def layer(i: int) -> list[Tensor]:
        theirs, ours = f"transformer.h.{i}", f"layer_{i}"
        parts = [
            ("attn.c_attn", ("attention/query", "attention/key", "attention/value")),
            ("attn.c_proj", ("attention/out",)),
            ("mlp.c_fc", ("mlp/up",)),
            ("mlp.c_proj", ("mlp/down",)),
        ]
        # GPT-2's "Conv1D" keeps [in, out], as Flax does.
        dense = [
            Tensor(f"{theirs}.{part}.{leaf}", tuple(f"{ours}/{path}/{our_leaf}" for path in paths))
            for part, paths in parts
            for leaf, our_leaf in (("weight", "kernel"), ("bias", "bias"))
        ]
        return [
            *_norm(f"{theirs}.ln_1", f"{ours}/attention_norm"),
            *_norm(f"{theirs}.ln_2", f"{ours}/mlp_norm"),
            *dense,
        ]

    head = [] if config.tie_word_embeddings else [Tensor("lm_head.weight", ("lm_head/kernel",), transpose=True)]
    return [
        Tensor("transformer.wte.weight", ("token_embedding/embedding",)),
        Tensor("transformer.wpe.weight", ("position_embedding/embedding",)),
        *(tensor for i in range(config.n_layer) for tensor in layer(i)),
        *_norm("transformer.ln_f", "final_norm"),
        *head,
    ]


def _norm(theirs: str, ours: str) -> list[Tensor]:
    return [Tensor(f"{theirs}.weight", (f"{ours}/scale",)), Tensor(f"{theirs}.bias", (f"{ours}/bias",))]


def _gpt2_tied(config: GPT2Config) -> dict[str, str]:
    return {"lm_head.weight": "transformer.wte.weight"} if config.tie_word_embeddings else {}


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        config=GPT2Config,
        model=GPT2,
        architecture="GPT2LMHeadModel",
        prefix="transformer.",
        tensors=_gpt2_tensors,
        tied=_gpt2_tied,
        dropped=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),
    ),
}
