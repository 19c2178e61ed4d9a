"""The config.json of RoBERTa and BERT as one dataclass, which holds all differences between the two."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hut_jax.core.errors import UserError, nearest
from hut_jax.interop.tensors import TensorNames
from hut_jax.models.activations import ACTIVATIONS
from hut_jax.models.config_json import Ids, Names, label_fields, read_config, read_labels
from hut_jax.models.hub.names import encoder_names

HEADS = ("none", "classification", "mlm")

# What transformers takes where config.json has nothing. The dataclass has RoBERTa's other defaults.
_SIZES = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
_BERT = {"vocab_size": 30522, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}


@dataclasses.dataclass(frozen=True)
class RobertaConfig:
    """The fields of Hugging Face's config.json that change what the model computes or how it is initialised.

    `head` comes from config.json's `architectures`, and `labels` from its `id2label` or `num_labels`. `problem_type`
    does not change the model; it is for the loss.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    pad_token_id: Ids = 1
    bos_token_id: Ids = 0
    eos_token_id: Ids = 2
    head: str = "none"
    labels: Names = ("LABEL_0", "LABEL_1")
    problem_type: str | None = None

    def __post_init__(self):
        if self.model_type not in ("roberta", "bert"):
            raise UserError(f"model_type must be 'roberta' or 'bert', not {self.model_type!r}")
        if self.head not in HEADS:
            raise UserError(f"no head {self.head!r}; {nearest(self.head, HEADS)}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(f"unsupported hidden_act {self.hidden_act!r}; {nearest(self.hidden_act, ACTIVATIONS)}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {rate}")
        if self.model_type == "roberta" and not (isinstance(self.pad_token_id, int) and self.pad_token_id >= -1):
            raise UserError(
                f"pad_token_id must be a whole number of at least 0, or -1 for none, not {self.pad_token_id!r}: "
                "RoBERTa counts its positions from it"
            )
        if self.n_positions < 1:
            raise UserError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no position after those up to "
                f"pad_token_id {self.pad_token_id}, which RoBERTa does not use"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "config.json") -> "RobertaConfig":
        """Read a parsed config.json, without its `architectures`, which `hub/heads.py` reads.

        A field that is missing has transformers' default.

        Raises:
            UserError: a field is of the wrong kind, or asks for what is not supported.
        """
        for name in ("is_decoder", "add_cross_attention"):
            if values.get(name):
                raise UserError(f"{where}: {name!r} is not supported: this is only an encoder")
        positions = values.get("position_embedding_type") or "absolute"
        if positions != "absolute":
            raise UserError(f"{where}: position_embedding_type {positions!r} is not supported; valid: 'absolute'")
        defaults = {**_SIZES, **(_BERT if values.get("model_type") == "bert" else {})}
        return read_config(cls, {**defaults, **values, "head": "none", "labels": read_labels(values, where)}, where)

    def to_json(self) -> dict[str, Any]:
        """The fields as config.json has them, without the head, which is in its `architectures`."""
        values = dataclasses.asdict(self)
        del values["head"]
        values |= label_fields(values.pop("labels"))
        return values

    def tensor_names(self) -> TensorNames:
        """The names of the model's tensors in Hugging Face's files."""
        return encoder_names(self)

    @property
    def n_positions(self) -> int:
        """The length of the longest sequence that the model takes."""
        return self.max_position_embeddings - self.position_offset

    @property
    def position_offset(self) -> int:
        """The first token's position. In RoBERTa the position of padding is its token id, and tokens follow it."""
        if self.model_type == "bert":
            return 0
        assert isinstance(self.pad_token_id, int)
        return self.pad_token_id + 1

    @property
    def n_layer(self) -> int:
        """The number of layers, by the name that all families share."""
        return self.num_hidden_layers

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return self.num_attention_heads

    @property
    def key_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.num_attention_heads

    @property
    def has_pooler(self) -> bool:
        """Whether there is a dense layer on the first token, as in transformers' class of this head."""
        return self.head == "none" or (self.head == "classification" and self.model_type == "bert")

    @property
    def classifier_rate(self) -> float:
        """The dropout probability in the classification head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def mlm_activation(self) -> str:
        """The masked-LM head's activation: RoBERTa's is fixed."""
        return "gelu" if self.model_type == "roberta" else self.hidden_act
