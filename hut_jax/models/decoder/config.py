"""The config of a decoder, which holds all differences between the families."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from hut_jax.core.errors import UserError, nearest
from hut_jax.interop.tensors import TensorNames
from hut_jax.models.activations import ACTIVATIONS
from hut_jax.models.config_json import TWO_LABELS, Flags, Ids, Names, read_config
from hut_jax.models.decoder.reading import config_fields, json_fields
from hut_jax.models.decoder.rope import DEFAULT, LONGEST, Rope
from hut_jax.models.decoder.traits import FULL, SLIDING, TRAITS, Traits
from hut_jax.models.hub.decoder_names import decoder_names

HEADS = ("none", "classification", "causal")


class Kind(NamedTuple):
    """What differs between the layers of one model.

    Attributes:
        window: the number of keys up to its own that a query may attend to; None: all.
        rope: the rotary positions; None: none.
    """

    window: int | None
    rope: Rope | None


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The fields of Hugging Face's config.json that change what the model computes or how it is initialised.

    Some are named otherwise there in some families, or follow from other fields; `reading.py` reads all of them.
    `head` comes from config.json's `architectures`, and `labels` from its `id2label` or `num_labels`.

    Attributes:
        head_dim: the width of a head.
        query_pre_attn_scalar: the query-key products are divided by its square root; None: of `head_dim`.
        sliding_window: the window of the layers of that type.
        layer_types: "full_attention" or "sliding_attention" for each layer; if empty, all slide if there is a window.
        with_positions: 0 for each layer without rotary positions, else 1; if empty, all have them.
        rope: the rotary positions.
        local_rope: those of the layers with a sliding window, if they have others.

    Raises:
        UserError: a field is out of range, or fields contradict each other.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    resid_pdrop: float = 0.0
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window: int | None = None
    layer_types: Names = ()
    with_positions: Flags = ()
    rope: Rope = DEFAULT
    local_rope: Rope | None = None
    bos_token_id: Ids = None
    eos_token_id: Ids = None
    pad_token_id: Ids = None
    head: str = "causal"
    labels: Names = TWO_LABELS
    problem_type: str | None = None

    def __post_init__(self):
        layers = self.num_hidden_layers
        if not self.layer_types:
            kind = FULL if self.sliding_window is None else SLIDING
            object.__setattr__(self, "layer_types", (kind,) * layers)
        if not self.with_positions:
            object.__setattr__(self, "with_positions", (1,) * layers)
        self._check()

    def _check(self) -> None:
        if self.model_type not in TRAITS:
            raise UserError(f"no decoder {self.model_type!r}; {nearest(self.model_type, TRAITS)}")
        if self.head not in HEADS:
            raise UserError(f"no head {self.head!r}; {nearest(self.head, HEADS)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads {self.num_attention_heads} is not divisible by num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            known = nearest(self.hidden_act, ACTIVATIONS)
            raise UserError(f"unsupported {self.traits.activation} {self.hidden_act!r}; {known}")
        for name in ("attention_dropout", "resid_pdrop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, not {value:g}")
        for name in ("layer_types", "with_positions"):
            if len(getattr(self, name)) != self.num_hidden_layers:
                raise UserError(
                    f"{name} has {len(getattr(self, name))} entries, and there are {self.num_hidden_layers} layers"
                )
        for kind in self.layer_types:
            if kind not in (FULL, SLIDING):
                raise UserError(f"layer_types: {kind!r} is not supported; {nearest(kind, (FULL, SLIDING))}")
        if SLIDING in self.layer_types and self.sliding_window is None:
            raise UserError(f"layer_types has {SLIDING!r}, and there is no sliding_window; give one, or {FULL!r}")
        if {rope.rotary_width(self.head_dim) for rope in self.ropes} != {self.rotary_width}:
            raise UserError("the kinds of layers have different partial_rotary_factors, which is not supported")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = "config.json") -> "DecoderConfig":
        """Read a parsed config.json, without its `architectures`, which `hub/heads.py` reads.

        A field that is missing has transformers' default.

        Raises:
            UserError: a field is of the wrong kind, or asks for what is not supported.
        """
        return read_config(cls, config_fields(values, where), where)

    def to_json(self) -> dict[str, Any]:
        """The fields as config.json has them, without the head, which is in its `architectures`."""
        return json_fields(self)

    def tensor_names(self) -> TensorNames:
        """The names of the model's tensors in Hugging Face's files."""
        return decoder_names(self)

    @property
    def traits(self) -> Traits:
        """What the family does that no field says."""
        return TRAITS[self.model_type]

    @property
    def n_positions(self) -> int:
        """The length of the longest sequence that the model takes."""
        if self.rope.rope_type != "dynamic" or self.rope.factor is None:
            return self.max_position_embeddings
        return int(min(self.max_position_embeddings * self.rope.factor, LONGEST))

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
        """The number of heads of keys and values, each of which serves a group of attention heads."""
        return self.num_key_value_heads

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The rotary positions of all layers, each once."""
        return (self.rope,) if self.local_rope is None else (self.rope, self.local_rope)

    @property
    def frequencies_change_at(self) -> int | None:
        """The length at which the frequencies of rotary positions change at once; None: at none."""
        return self.rope.changes_at

    @property
    def rotary_width(self) -> int:
        """The number of entries of a head that rotary positions turn."""
        return self.rope.rotary_width(self.head_dim)

    @property
    def attention_scale(self) -> float:
        """The factor of the query-key products."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @property
    def layer_kinds(self) -> tuple[Kind, ...]:
        """The kind of each layer."""
        kinds = []
        for name, positions in zip(self.layer_types, self.with_positions, strict=True):
            rope = self.local_rope if name == SLIDING and self.local_rope is not None else self.rope
            kinds.append(Kind(self.sliding_window if name == SLIDING else None, rope if positions else None))
        return tuple(kinds)

    def has_bias(self, layer: str) -> bool:
        """Whether the dense layer of this name has a bias, such as "query" or "down"."""
        if layer in ("gate", "up", "down"):
            return self.mlp_bias and self.traits.mlp_bias
        kind = self.traits.attention_bias
        return layer != "out" if kind == "inputs" else self.attention_bias and kind == "field"
