"""The architectures that are read: the names of their tensors with llama.cpp and with Hugging Face, and what differs.

llama.cpp's converter renames tensors and changes some: it pairs the rotary rows of Llama's queries and keys, adds one
to Gemma's norms, and transposes GPT-2's kernels. `tensors.py` undoes that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_LLAMA = {**_ATTENTION, "ffn_norm": "post_attention_layernorm", **_MLP}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA = {
    **_ATTENTION,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    **_MLP,
}
_PHI3 = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_QKV = frozenset({"attn_q", "attn_k", "attn_v"})


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp.

    Attributes:
        model_type: transformers' name for it.
        name: transformers' class.
        layer: the modules of a layer: llama.cpp's name -> Hugging Face's.
        layers: what stands before a layer's number with Hugging Face.
        outside: the modules outside the layers.
        biased: the modules of a layer that always have a bias.
        may_be_biased: sets of modules of which all or none have a bias -> the field of config.json that says so.
        paired: whether the rotary rows of queries and keys are paired in the file.
        one_more: whether the file's norms are one more than Hugging Face's.
        transposed: the modules of a layer whose kernel is transposed in the file.
    """

    model_type: str
    name: str
    layer: Mapping[str, str]
    layers: str = "model.layers"
    outside: Mapping[str, str] = field(
        default_factory=lambda: {
            "token_embd": "model.embed_tokens",
            "output_norm": "model.norm",
            "output": "lm_head",
        }
    )
    biased: frozenset[str] = frozenset()
    may_be_biased: Mapping[frozenset[str], str] = field(default_factory=dict)
    paired: bool = False
    one_more: bool = False
    transposed: frozenset[str] = frozenset()


_MAY_BE_BIASED = {_QKV | {"attn_output"}: "attention_bias", frozenset(_MLP): "mlp_bias"}
_MAY_BE_BIASED_ATTENTION = {_QKV | {"attn_output"}: "attention_bias"}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", _LLAMA, may_be_biased=_MAY_BE_BIASED, paired=True),
    "smollm3": Architecture("smollm3", "SmolLM3ForCausalLM", _LLAMA, may_be_biased=_MAY_BE_BIASED, paired=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _LLAMA, biased=_QKV),
    "qwen3": Architecture(
        "qwen3", "Qwen3ForCausalLM", {**_LLAMA, **_HEAD_NORMS}, may_be_biased=_MAY_BE_BIASED_ATTENTION
    ),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", _GEMMA, one_more=True),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", {**_GEMMA, **_HEAD_NORMS}, one_more=True),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", _PHI3),
    "gpt2": Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        _GPT2,
        layers="transformer.h",
        outside={
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        biased=frozenset(_GPT2),
        transposed=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
    ),
}
"""Every architecture that is read, by llama.cpp's name."""

ROTARY = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
"""Tensors that are no parameters: `rotary.py` reads them for config.json."""
