"""What the families of decoders do that no field of their config.json says."""

from typing import NamedTuple

FULL, SLIDING = "full_attention", "sliding_attention"
"""The kinds of layers in config.json's `layer_types`."""


class Traits(NamedTuple):
    """What a family does that no field of its config.json says.

    Attributes:
        activation: the name of the activation's field in config.json.
        attention_bias: the layers of attention that have a bias: those that config.json's `attention_bias` decides on
            ("field"), all but the output ("inputs"), or none.
        mlp_bias: whether config.json's `mlp_bias` decides on the biases of the feed-forward network.
        gemma: norms scale by 1 + weight; each sublayer's output has a norm, too; embeddings are scaled.
        query_key_norm: whether queries and keys have a norm.
        fused: whether the files hold the kernels of query, key and value as one, and those of gate and up.
        fields: further fields of config.json.
    """

    activation: str = "hidden_act"
    attention_bias: str = "none"
    mlp_bias: bool = False
    gemma: bool = False
    query_key_norm: bool = False
    fused: bool = False
    fields: tuple[str, ...] = ()


_QWEN = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
_GEMMA = (
    *("attention_bias", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("sliding_window", "layer_types", "head_dim"),
)
_SMOLLM3 = (
    *("attention_bias", "mlp_bias", "use_sliding_window", "sliding_window", "layer_types"),
    "no_rope_layers",
)

TRAITS: dict[str, Traits] = {
    "llama": Traits(attention_bias="field", mlp_bias=True, fields=("attention_bias", "mlp_bias", "head_dim")),
    "mistral": Traits(fields=("sliding_window", "head_dim")),
    "qwen2": Traits(attention_bias="inputs", fields=_QWEN),
    "qwen3": Traits(attention_bias="field", query_key_norm=True, fields=(*_QWEN, "attention_bias", "head_dim")),
    "gemma2": Traits("hidden_activation", attention_bias="field", gemma=True, fields=_GEMMA),
    "gemma3_text": Traits("hidden_activation", attention_bias="field", gemma=True, query_key_norm=True, fields=_GEMMA),
    "smollm3": Traits(attention_bias="field", mlp_bias=True, fields=_SMOLLM3),
    "phi3": Traits(
        fused=True,
        fields=("sliding_window", "resid_pdrop", "partial_rotary_factor", "original_max_position_embeddings"),
    ),
}
"""The traits of each `model_type`."""
