"""The families of models that can be loaded: for each its classes, and its tensors' Hugging Face names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn

from hut_jax.models.gpt2 import GPT2, GPT2Config
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig

_NOTHING = re.compile(r"(?!)")


class Tensor(NamedTuple):
    """One tensor of a Hugging Face file and where it goes.

    Attributes:
        name: its name as transformers writes it.
        paths: our parameters, '/'-joined. Several: the last axis is split evenly among them, in this order.
        transpose: whether it is `[out, in]`, as torch's Linear has it, where Flax has `[in, out]`.
        also: another name for it, which some of transformers' versions read and write instead. It is written
            under both, and read under either.
    """

    name: str
    paths: tuple[str, ...]
    transpose: bool = False
    also: str | None = None


@dataclass(frozen=True)
class Family:
    """What loading and saving must know of a family.

    Attributes:
        config: the config's class, with `from_json` and `to_json`.
        model: the Linen class, with fields `config`, `dtype`, `remat`, `scan_layers` and `attention`.
        heads: the transformers classes whose files these are, and what we call their heads. Of several classes
            with one head the first is the one whose files are written.
        prefix: what some files' names begin with and others' (the bare body's) do not.
        tensors: a config's tensors.
        tied: a config's tensors that may be left out, since they equal another: name -> the other's name.
        dropped: names (without the prefix) of old files' buffers, which are no parameters.
        other_heads: names (without the prefix) of tensors that a model with another head does not have. They are
            left out, and the caller is told.
        old_endings: how the names of old files end, and how they end today.
    """

    config: Any
    model: type[nn.Module]
    heads: Mapping[str, str]
    prefix: str
    tensors: Callable[[Any], list[Tensor]]
    tied: Callable[[Any], Mapping[str, str]]
    dropped: re.Pattern
    other_heads: re.Pattern = _NOTHING
    old_endings: Mapping[str, str] = field(default_factory=dict)

    def bare(self, name: str) -> str:
        """A tensor's name in a file, as it is written today and without the prefix."""
        for old, new in self.old_endings.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name.removeprefix(self.prefix)


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


class _Names(NamedTuple):
    """Where RoBERTa's and BERT's tensors have other names than each other."""

    classifier: tuple[tuple[str, str], ...]
    mlm_dense: str
    mlm_norm: str
    mlm_bias: str
    mlm_decoder: str


_ENCODERS = {
    "roberta": _Names(
        classifier=(("classifier.dense", "classifier/dense"), ("classifier.out_proj", "classifier/out")),
        mlm_dense="lm_head.dense",
        mlm_norm="lm_head.layer_norm",
        mlm_bias="lm_head.bias",
        mlm_decoder="lm_head.decoder",
    ),
    "bert": _Names(
        classifier=(("classifier", "classifier/out"),),
        mlm_dense="cls.predictions.transform.dense",
        mlm_norm="cls.predictions.transform.LayerNorm",
        mlm_bias="cls.predictions.bias",
        mlm_decoder="cls.predictions.decoder",
    ),
}


def _encoder_tensors(config: RobertaConfig) -> list[Tensor]:
    names = _ENCODERS[config.model_type]
    body = _body(config)

    def layer(i: int) -> list[Tensor]:
        theirs, ours = f"{body}encoder.layer.{i}", f"layer_{i}"
        parts = [
            ("attention.self.query", "attention/query"),
            ("attention.self.key", "attention/key"),
            ("attention.self.value", "attention/value"),
            ("attention.output.dense", "attention/out"),
            ("intermediate.dense", "mlp/up"),
            ("output.dense", "mlp/down"),
        ]
        return [
            *(tensor for part, path in parts for tensor in _linear(f"{theirs}.{part}", f"{ours}/{path}")),
            *_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"),
            *_norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm"),
        ]

    head = []
    if config.has_pooler:
        head += _linear(f"{body}pooler.dense", "pooler")
    if config.head == "classification":
        head += [tensor for theirs, ours in names.classifier for tensor in _linear(theirs, ours)]
    if config.head == "mlm":
        head += [*_linear(names.mlm_dense, "mlm/dense"), *_norm(names.mlm_norm, "mlm/norm")]
        if config.tie_word_embeddings:
            head += [Tensor(names.mlm_bias, ("mlm/bias",))]
        else:
            # Here transformers 5 has two biases and reads the decoder's; before, they were one, under the other name.
            head += [
                Tensor(f"{names.mlm_decoder}.weight", ("mlm/decoder/kernel",), transpose=True),
                Tensor(f"{names.mlm_decoder}.bias", ("mlm/bias",), also=names.mlm_bias),
            ]
    return [
        Tensor(f"{body}embeddings.word_embeddings.weight", ("token_embedding/embedding",)),
        Tensor(f"{body}embeddings.position_embeddings.weight", ("position_embedding/embedding",)),
        Tensor(f"{body}embeddings.token_type_embeddings.weight", ("type_embedding/embedding",)),
        *_norm(f"{body}embeddings.LayerNorm", "embedding_norm"),
        *(tensor for i in range(config.num_hidden_layers) for tensor in layer(i)),
        *head,
    ]


def _encoder_tied(config: RobertaConfig) -> dict[str, str]:
    if config.head != "mlm" or not config.tie_word_embeddings:
        return {}
    names = _ENCODERS[config.model_type]
    return {
        f"{names.mlm_decoder}.weight": f"{_body(config)}embeddings.word_embeddings.weight",
        f"{names.mlm_decoder}.bias": names.mlm_bias,
    }


def _body(config: RobertaConfig) -> str:
    """What the encoder's names begin with: nothing where transformers' class is the encoder alone."""
    return "" if config.head == "none" else f"{config.model_type}."


def _linear(theirs: str, ours: str) -> list[Tensor]:
    return [
        Tensor(f"{theirs}.weight", (f"{ours}/kernel",), transpose=True),
        Tensor(f"{theirs}.bias", (f"{ours}/bias",)),
    ]


def _encoder(kind: str, heads: Mapping[str, str]) -> Family:
    return Family(
        config=RobertaConfig,
        model=Roberta,
        heads=heads,
        prefix=f"{kind}.",
        tensors=_encoder_tensors,
        tied=_encoder_tied,
        dropped=re.compile(r"embeddings\.(position_ids|token_type_ids)"),
        other_heads=re.compile(r"(pooler|classifier|lm_head|cls|qa_outputs)\..*"),
        old_endings={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    )


FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        config=GPT2Config,
        model=GPT2,
        heads={"GPT2LMHeadModel": "causal"},
        prefix="transformer.",
        tensors=_gpt2_tensors,
        tied=_gpt2_tied,
        dropped=re.compile(r"h\.\d+\.attn\.(bias|masked_bias)"),
    ),
    "roberta": _encoder(
        "roberta",
        {
            "RobertaModel": "none",
            "RobertaForMaskedLM": "mlm",
            "RobertaForSequenceClassification": "classification",
        },
    ),
    "bert": _encoder(
        "bert",
        {
            "BertModel": "none",
            "BertForMaskedLM": "mlm",
            "BertForPreTraining": "mlm",
            "BertForSequenceClassification": "classification",
        },
    ),
}
