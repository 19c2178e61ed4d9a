"""The config.json of a GGUF file's model, as transformers writes it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hut_jax.models.gguf.fields import Fields
from hut_jax.models.gguf.rotary import rotary_scaling
from hut_jax.models.gguf.tensors import Tensors

_GEMMA_27B = {"gemma2": 46, "gemma3": 62}  # layers; this size alone scales its attention by another width
_TANH_GELU = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}


def read_config(fields: Fields, tensors: Tensors) -> dict[str, Any]:
    """The fields of config.json.

    Raises:
        UserError: the metadata lack something, or something is not supported.
    """
    architecture = tensors.architecture
    if fields.whole("expert_count", 0, least=0):
        raise fields.error("a mixture of experts, which is not supported")
    embedding = f"{architecture.outside['token_embd']}.weight"
    ends = [end for end in dict.fromkeys(_token(fields, role) for role in ("eos", "eot")) if end is not None]
    return {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": tensors.shapes[embedding][0],
        "tie_word_embeddings": tensors.tied,
        "bos_token_id": _token(fields, "bos"),
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": _token(fields, "padding"),
        **(_gpt2(fields) if fields.architecture == "gpt2" else _decoder(fields, tensors)),
    }


def _token(fields: Fields, role: str) -> int | None:
    name = f".tokenizer.ggml.{role}_token_id"
    return fields.whole(name, least=0) if fields.has(name) else None


def _gpt2(fields: Fields) -> dict[str, Any]:
    width, inner = fields.whole("embedding_length"), fields.whole("feed_forward_length")
    return {
        "n_embd": width,
        "n_layer": fields.whole("block_count"),
        "n_head": fields.whole("attention.head_count"),
        "n_positions": fields.whole("context_length"),
        "n_inner": None if inner == 4 * width else inner,
        "layer_norm_epsilon": fields.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


def _decoder(fields: Fields, tensors: Tensors) -> dict[str, Any]:
    """What all decoders with rotary positions have, and what is peculiar to one."""
    kind = fields.architecture
    width, heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    head = fields.whole("attention.key_length", max(width // heads, 1))
    if fields.whole("attention.value_length", head) != head:
        raise fields.error("its heads have keys and values of different widths, which is not supported")
    rotary = fields.whole("rope.dimension_count", head)
    if rotary > head or (rotary != head and kind != "phi3"):
        raise fields.error(f"{rotary} of the {head} entries of a head are rotary, which is supported in phi3 alone")
    theta = fields.number("rope.freq_base", 10000.0)
    scaling = rotary_scaling(fields, tensors, theta, rotary)
    window = fields.whole("attention.sliding_window", 0, least=0) or None
    values = {
        "hidden_size": width,
        "intermediate_size": fields.whole("feed_forward_length"),
        "num_hidden_layers": fields.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.whole("attention.head_count_kv", heads),
        "head_dim": head,
        "hidden_act": "silu",
        "max_position_embeddings": fields.whole("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "rope_scaling": scaling,
        **tensors.biases,
    }
    return values | _OWN[kind](fields, values, window)


def _llama(fields: Fields, values: dict[str, Any], window: int | None) -> dict[str, Any]:
    # llama.cpp has one name for Llama and Mistral, which differ in the window alone.
    if window is None:
        return {}
    if any(values[name] for name in ("attention_bias", "mlp_bias")):
        raise fields.error("a Llama with biases and a sliding window, which is not supported")
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}


def _smollm3(fields: Fields, values: dict[str, Any], window: int | None) -> dict[str, Any]:
    every = 4  # llama.cpp's, too: each fourth layer has no positions
    return {
        "no_rope_layer_interval": every,
        "no_rope_layers": [int((i + 1) % every != 0) for i in range(values["num_hidden_layers"])],
        "use_sliding_window": False,
    }


def _qwen(fields: Fields, values: dict[str, Any], window: int | None) -> dict[str, Any]:
    return {"use_sliding_window": False, "sliding_window": None}


def _gemma2(fields: Fields, values: dict[str, Any], window: int | None) -> dict[str, Any]:
    return _TANH_GELU | {
        "query_pre_attn_scalar": _attention_scalar(fields, values),
        "attn_logit_softcapping": fields.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": fields.number("final_logit_softcapping", 30.0),
        "sliding_window": window or 4096,
        "layer_types": _layer_types(fields, values, 2),
        "attention_bias": False,
    }


def _gemma3(fields: Fields, values: dict[str, Any], window: int | None) -> dict[str, Any]:
    period = 1 if window is None else 6
    cap = "final_logit_softcapping"
    return _TANH_GELU | {
        "query_pre_attn_scalar": _attention_scalar(fields, values),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": fields.number(cap) if fields.has(cap) else None,
        "rope_theta": fields.number("rope.freq_base", 1e6),
        "rope_local_base_freq": fields.number("rope.freq_base_swa", 10000.0),
        "sliding_window": window or 4096,
        "sliding_window_pattern": period,
        "layer_types": _layer_types(fields, values, period),
        "attention_bias": False,
    }


def _phi3(fields: Fields, values: dict[str, Any], window: int | None) -> dict[str, Any]:
    positions = values["max_position_embeddings"]
    rotary = fields.whole("rope.dimension_count", values["head_dim"])
    return {
        "original_max_position_embeddings": fields.whole("rope.scaling.original_context_length", positions),
        "partial_rotary_factor": rotary / values["head_dim"],
        "sliding_window": window,
    }


_OWN: dict[str, Callable[[Fields, dict[str, Any], int | None], dict[str, Any]]] = {
    "llama": _llama,
    "smollm3": _smollm3,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
}


def _attention_scalar(fields: Fields, values: dict[str, Any]) -> int:
    """The width by whose root Gemma divides its attention. No field says it; llama.cpp goes by the layers, too."""
    if values["num_hidden_layers"] == _GEMMA_27B[fields.architecture]:
        return values["hidden_size"] // values["num_attention_heads"]
    return values["head_dim"]


def _layer_types(fields: Fields, values: dict[str, Any], period: int) -> list[str]:
    """The kind of attention of each layer: of each `period` layers the last sees all positions."""
    layers, name = values["num_hidden_layers"], "attention.sliding_window_pattern"
    sliding = [(i + 1) % period != 0 for i in range(layers)]
    if fields.has(name):
        pattern = fields.header.fields[f"{fields.architecture}.{name}"]
        if isinstance(pattern, np.ndarray):
            sliding = [bool(one) for one in fields.numbers(name, layers)]
        else:
            sliding = [(i + 1) % fields.whole(name) != 0 for i in range(layers)]
    return ["sliding_attention" if one else "full_attention" for one in sliding]
