"""A decoder's config.json as transformers 4 and 5 write it, to the fields of `DecoderConfig` and back.

Transformers 4 has `rope_theta` beside `rope_scaling`, whose type is its `type` or `rope_type`. Transformers 5 has
`rope_parameters` with all of it, for each kind of layer if they differ. Which layers have a sliding window is told by
`layer_types`, or in older files by a pattern. Fields that are missing have transformers' defaults. So have fields that
are null, where null means nothing else.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hut_jax.core.errors import UserError
from hut_jax.models.config_json import Count, Flags, Names, label_fields, read_config, read_labels
from hut_jax.models.decoder.rope import FIELDS, LONGEST, Rope
from hut_jax.models.decoder.traits import FULL, SLIDING, TRAITS

# Null is a value of these fields: there is none.
_NULLABLE = (
    *("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "problem_type"),
)


def _sizes(vocab: int, width: int, inner: int, layers: int, heads: int, key_heads: int | None, positions: int) -> dict:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": positions,
    }


_GEMMA = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
}
# What transformers takes where config.json has nothing.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _sizes(32000, 4096, 11008, 32, 32, None, 2048) | {"bos_token_id": 1, "eos_token_id": 2},
    "mistral": _sizes(32000, 4096, 14336, 32, 32, 8, 131072)
    | {"bos_token_id": 1, "eos_token_id": 2, "sliding_window": 4096},
    "qwen2": _sizes(151936, 4096, 22016, 32, 32, 32, 32768) | {"sliding_window": 4096},
    "qwen3": _sizes(151936, 4096, 22016, 32, 32, 32, 32768) | {"sliding_window": 4096, "head_dim": 128},
    "gemma2": _sizes(256000, 2304, 9216, 26, 8, 4, 8192)
    | _GEMMA
    | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _sizes(262208, 2304, 9216, 26, 8, 4, 131072) | _GEMMA,
    "smollm3": _sizes(128256, 2048, 11008, 36, 16, 4, 32768)
    | {"tie_word_embeddings": True, "pad_token_id": 128004, "bos_token_id": 128000, "eos_token_id": 128001},
    "phi3": _sizes(32064, 3072, 8192, 32, 32, None, 4096)
    | {"rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
}
_THETA = {"smollm3": 2_000_000.0, "gemma3_text": 1_000_000.0}
_PHI3_ORIGINAL = 4096  # the length that a Phi-3 was trained on, if its config.json does not tell
# Files that say more would take time or memory out of proportion to their size.
_MOST = {
    "num_hidden_layers": 10_000,
    "max_position_embeddings": LONGEST,
    "sliding_window": LONGEST,
    "head_dim": 65_536,
}
_SOME = frozenset(name for traits in TRAITS.values() for name in traits.fields)  # fields that not all families have


@dataclasses.dataclass(frozen=True)
class _File:
    """The fields of config.json from which others follow."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    layer_types: Names | None = None
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: Count = 28
    sliding_window_pattern: int = 6
    no_rope_layers: Flags | None = None
    no_rope_layer_interval: int = 4
    original_max_position_embeddings: int | None = None
    rope_theta: float | None = None
    rope_local_base_freq: float = 10_000.0
    partial_rotary_factor: float = 1.0
    use_bidirectional_attention: bool = False


def config_fields(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a `DecoderConfig`, from a parsed config.json with a `model_type` of a decoder.

    Raises:
        UserError: a field is of the wrong kind, or asks for what is not supported.
    """
    kind = values["model_type"]
    traits = TRAITS[kind]
    given = {name: value for name, value in values.items() if value is not None or name in _NULLABLE}
    filled = {"hidden_act": "silu", **_DEFAULTS[kind], **given}
    file = read_config(_File, filled, where)
    if file.use_bidirectional_attention:
        raise UserError(f"{where}: 'use_bidirectional_attention' is not supported: this is a causal decoder")
    if file.head_dim is None and file.hidden_size % file.num_attention_heads:
        raise UserError(
            f"{where}: hidden_size {file.hidden_size} is not divisible by num_attention_heads "
            f"{file.num_attention_heads}, and there is no head_dim"
        )
    head_dim = file.head_dim or file.hidden_size // file.num_attention_heads
    for name, most in _MOST.items():
        value = head_dim if name == "head_dim" else getattr(file, name)
        if (value or 0) > most:
            raise UserError(f"{where}: {name} must be at most {most:,}, not {value:,}")
    rope, local_rope = _ropes(kind, given, file, where)
    layer_types = _layer_types(kind, file)
    filled["hidden_act"] = filled[traits.activation]
    for name in _SOME - {*traits.fields}:
        filled.pop(name, None)  # transformers ignores it in this family
    filled |= {
        "num_key_value_heads": file.num_key_value_heads or file.num_attention_heads,
        "head_dim": head_dim,
        "sliding_window": _window(kind, file) if SLIDING in layer_types else None,
        "layer_types": layer_types,
        "with_positions": _with_positions(kind, file),
        "rope": rope,
        "local_rope": local_rope,
        "head": "causal",
        "labels": read_labels(values, where),
    }
    if kind == "gemma3_text":
        filled.pop("attn_logit_softcapping", None)  # the same
    return filled


def json_fields(config: Any) -> dict[str, Any]:
    """The fields of config.json for a `DecoderConfig`, as transformers 4 and 5 both read them."""
    traits = TRAITS[config.model_type]
    values = dataclasses.asdict(config)
    rope, local_rope = config.rope, config.local_rope
    for name in ("head", "rope", "local_rope", "with_positions"):
        del values[name]
    values |= label_fields(values.pop("labels"))
    values[traits.activation] = values.pop("hidden_act")
    scalar = config.query_pre_attn_scalar
    if scalar is not None and scalar == int(scalar):
        values["query_pre_attn_scalar"] = int(scalar)
    kinds = config.layer_types
    values |= {
        "use_sliding_window": SLIDING in kinds,
        "max_window_layers": kinds.index(SLIDING) if SLIDING in kinds else len(kinds),
        "no_rope_layers": list(config.with_positions),
        "original_max_position_embeddings": rope.original_max_position_embeddings or _PHI3_ORIGINAL,
        "partial_rotary_factor": rope.partial_rotary_factor,
    }
    values = {name: value for name, value in values.items() if name not in _SOME or name in traits.fields}
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        values["head_dim"] = config.head_dim
    values["rope_theta"] = rope.rope_theta
    scaling = _scaling(config.model_type, rope, config.max_position_embeddings)
    if scaling:
        values["rope_scaling"] = scaling
    if local_rope is not None:
        values["rope_local_base_freq"] = local_rope.rope_theta
        if local_rope.rope_type != "default":  # transformers 4 cannot have it
            local = _scaling(config.model_type, local_rope, config.max_position_embeddings)
            values["rope_parameters"] = {
                FULL: {"rope_theta": rope.rope_theta, **(scaling or {"rope_type": "default"})},
                SLIDING: {"rope_theta": local_rope.rope_theta, **local},
            }
    return values


def _window(kind: str, file: _File) -> int | None:
    if kind in ("qwen2", "qwen3") and not file.use_sliding_window:
        return None
    return None if kind == "llama" else file.sliding_window


def _layer_types(kind: str, file: _File) -> Names:
    """The type of each layer, as the file tells it or as its family's pattern has it."""
    count = file.num_hidden_layers
    window = _window(kind, file)
    if kind in ("llama", "mistral", "phi3"):
        return (FULL if window is None else SLIDING,) * count
    if file.layer_types is not None:
        return file.layer_types
    if kind == "gemma2":
        slides = [i % 2 == 0 for i in range(count)]
    elif kind == "gemma3_text":
        slides = [(i + 1) % file.sliding_window_pattern > 0 for i in range(count)]
    elif kind == "smollm3":
        positions = _with_positions(kind, file)
        slides = [file.use_sliding_window and window is not None and not here for here in positions]
    else:
        slides = [window is not None and i >= file.max_window_layers for i in range(count)]
    return tuple(SLIDING if each else FULL for each in slides)


def _with_positions(kind: str, file: _File) -> Flags:
    count = file.num_hidden_layers
    if kind != "smollm3":
        return (1,) * count
    if file.no_rope_layers is not None:
        return file.no_rope_layers[:count]
    return tuple(int((i + 1) % file.no_rope_layer_interval > 0) for i in range(count))


def _ropes(kind: str, given: Mapping[str, Any], file: _File, where: str) -> tuple[Rope, Rope | None]:
    """The rotary positions, and for Gemma 3 those of layers with a sliding window."""
    scaling, parameters = (_object(given, name, where) for name in ("rope_scaling", "rope_parameters"))
    theta = _THETA.get(kind, 10_000.0) if file.rope_theta is None else file.rope_theta
    if kind == "gemma3_text":
        if parameters and not {FULL, SLIDING} & {*parameters}:
            raise UserError(f"{where}: 'rope_parameters' must have {FULL!r} and {SLIDING!r}, an object each")
        full = {**_object(parameters, FULL, where), **scaling}
        local = _object(parameters, SLIDING, where)
        local_theta = file.rope_local_base_freq
    else:
        either = scaling or parameters
        nested = bool({FULL, SLIDING} & {*either})
        full = _object(either, FULL, where) if nested else either
        local, local_theta = _object(either, SLIDING, where) if nested else full, theta
    rope, local_rope = _rope(kind, full, theta, file, where), _rope(kind, local, local_theta, file, where)
    if kind == "gemma3_text":
        return rope, local_rope
    if local_rope != rope:
        raise UserError(
            f"{where}: two kinds of rotary positions, which transformers has in gemma3_text and not in {kind}"
        )
    return rope, None


def _rope(kind: str, given: Mapping[str, Any], theta: float, file: _File, where: str) -> Rope:
    given = {name: value for name, value in given.items() if value is not None}
    name = given.get("rope_type", given.get("type", "default"))
    if kind == "phi3" and name in ("su", "yarn"):
        name = "longrope"  # its older names there
    fields = {
        "rope_type": name,
        "rope_theta": given.get("rope_theta", theta),
        "partial_rotary_factor": given.get("partial_rotary_factor", file.partial_rotary_factor),
    }
    own = FIELDS.get(name, ()) if isinstance(name, str) else ()
    fields |= {key: value for key, value in given.items() if key in own}
    if "original_max_position_embeddings" in own:
        longest = file.max_position_embeddings
        original = file.original_max_position_embeddings
        if original is None:
            original = _PHI3_ORIGINAL if kind == "phi3" else fields.get("original_max_position_embeddings", longest)
        fields["original_max_position_embeddings"] = original
        if name != "llama3" and isinstance(original, int) and original > 0:
            fields.setdefault("factor", longest / original)
    rope = read_config(Rope, fields, f"{where}: rotary positions")
    if kind == "phi3" and rope.rope_type not in ("default", "longrope"):
        raise UserError(f"{where}: a phi3 has rope_type 'default' or 'longrope', not {rope.rope_type!r}")
    if rope.partial_rotary_factor != 1 and kind != "phi3":
        raise UserError(
            f"{where}: 'partial_rotary_factor' is {rope.partial_rotary_factor:g}, which only a Phi-3 can have: "
            f"transformers ignores it in a {kind}; set it to 1"
        )
    return rope


def _scaling(kind: str, rope: Rope, longest: int) -> dict[str, Any]:
    """`rope_scaling` of config.json; empty for the default."""
    if rope.rope_type == "default":
        return {}
    values = {name: getattr(rope, name) for name in FIELDS[rope.rope_type]}
    values = {name: value for name, value in values.items() if value not in (None, ()) and value is not True}
    original = rope.original_max_position_embeddings
    if kind == "phi3":  # transformers 4 allows only the type and the two lists here
        del values["original_max_position_embeddings"]
        if original is not None and rope.factor == longest / original:
            del values["factor"]
        return {"type": rope.rope_type, **values}
    return {"rope_type": rope.rope_type, **values}


def _object(values: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = values.get(name)
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{where}: {name!r} must be an object or null, not {value!r}")
    return value or {}
