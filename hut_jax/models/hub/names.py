"""The names of the models' tensors in Hugging Face's files, beside the paths of our parameters."""

from typing import TYPE_CHECKING, NamedTuple

from hut_jax.interop.tensors import Tensor, TensorNames
from hut_jax.models.activations import PARAMETERS

if TYPE_CHECKING:  # the configs themselves import this module
    from hut_jax.models.gpt2_config import GPT2Config
    from hut_jax.models.roberta_config import RobertaConfig


def gpt2_names(config: "GPT2Config") -> TensorNames:
    """The tensors of a GPT-2."""

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
            *activation_tensors(config.activation_function, f"{theirs}.mlp.act", f"{ours}/mlp"),
        ]

    tensors = [
        Tensor("transformer.wte.weight", ("token_embedding/embedding",)),
        Tensor("transformer.wpe.weight", ("position_embedding/embedding",)),
        *(tensor for i in range(config.n_layer) for tensor in layer(i)),
        *_norm("transformer.ln_f", "final_norm"),
    ]
    if config.tie_word_embeddings:
        return TensorNames(tensors, {"lm_head.weight": "transformer.wte.weight"}, "transformer.")
    head = Tensor("lm_head.weight", ("lm_head/kernel",), transpose=True)
    return TensorNames([*tensors, head], {}, "transformer.")


class _Heads(NamedTuple):
    """The names that differ between the heads of RoBERTa and BERT."""

    classifier: tuple[tuple[str, str], ...]
    mlm_dense: str
    mlm_norm: str
    mlm_bias: str
    mlm_decoder: str


_HEADS = {
    "roberta": _Heads(
        classifier=(("classifier.dense", "classifier/dense"), ("classifier.out_proj", "classifier/out")),
        mlm_dense="lm_head.dense",
        mlm_norm="lm_head.layer_norm",
        mlm_bias="lm_head.bias",
        mlm_decoder="lm_head.decoder",
    ),
    "bert": _Heads(
        classifier=(("classifier", "classifier/out"),),
        mlm_dense="cls.predictions.transform.dense",
        mlm_norm="cls.predictions.transform.LayerNorm",
        mlm_bias="cls.predictions.bias",
        mlm_decoder="cls.predictions.decoder",
    ),
}


def encoder_names(config: "RobertaConfig") -> TensorNames:
    """The tensors of a RoBERTa or BERT, with the head that its config names."""
    names = _HEADS[config.model_type]
    prefix = f"{config.model_type}."
    body = "" if config.head == "none" else prefix  # transformers' class without a head is the encoder itself

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
            *activation_tensors(config.hidden_act, f"{theirs}.intermediate.intermediate_act_fn", f"{ours}/mlp"),
        ]

    tied: dict[str, str] = {}
    decoder = {f"{names.mlm_decoder}.weight": f"{body}embeddings.word_embeddings.weight"}
    head = []
    if config.has_pooler:
        head += _linear(f"{body}pooler.dense", "pooler")
    if config.head == "classification":
        head += [tensor for theirs, ours in names.classifier for tensor in _linear(theirs, ours)]
    if config.head == "mlm":
        head += [*_linear(names.mlm_dense, "mlm/dense"), *_norm(names.mlm_norm, "mlm/norm")]
        head += activation_tensors(config.mlm_activation, "cls.predictions.transform.transform_act_fn", "mlm")
        if config.tie_word_embeddings:
            head += [Tensor(names.mlm_bias, ("mlm/bias",))]
            tied = {**decoder, f"{names.mlm_decoder}.bias": names.mlm_bias}
        else:
            # Transformers 5 has two biases here and reads the decoder's. Earlier versions had one, under the other
            # name.
            head += [
                Tensor(f"{names.mlm_decoder}.weight", ("mlm/decoder/kernel",), transpose=True),
                Tensor(f"{names.mlm_decoder}.bias", ("mlm/bias",), also=names.mlm_bias),
            ]
    tensors = [
        Tensor(f"{body}embeddings.word_embeddings.weight", ("token_embedding/embedding",)),
        Tensor(f"{body}embeddings.position_embeddings.weight", ("position_embedding/embedding",)),
        Tensor(f"{body}embeddings.token_type_embeddings.weight", ("type_embedding/embedding",)),
        *_norm(f"{body}embeddings.LayerNorm", "embedding_norm"),
        *(tensor for i in range(config.num_hidden_layers) for tensor in layer(i)),
        *head,
    ]
    elsewhere = decoder if config.tie_word_embeddings and config.head != "mlm" else {}
    return TensorNames(tensors, tied, prefix, elsewhere)


def activation_tensors(activation: str, theirs: str, ours: str) -> list[Tensor]:
    """The tensors of an activation; none, unless it learns. `theirs` is its name, `ours` the module that applies it."""
    leaves = PARAMETERS.get(activation, {})
    return [Tensor(f"{theirs}.{leaf}", (f"{ours}/activation/{path}",)) for leaf, path in leaves.items()]


def _norm(theirs: str, ours: str) -> list[Tensor]:
    return [Tensor(f"{theirs}.weight", (f"{ours}/scale",)), Tensor(f"{theirs}.bias", (f"{ours}/bias",))]


def _linear(theirs: str, ours: str) -> list[Tensor]:
    return [
        Tensor(f"{theirs}.weight", (f"{ours}/kernel",), transpose=True),
        Tensor(f"{theirs}.bias", (f"{ours}/bias",)),
    ]
