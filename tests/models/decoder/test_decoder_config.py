"""A decoder's config.json: as transformers 4 and 5 write it, with defaults, nulls and mistakes."""

import pytest

from hut_jax.core.errors import UserError
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.traits import FULL, SLIDING, TRAITS

SIZES = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 4}


def read(family, **fields):
    return DecoderConfig.from_json({"model_type": family, **SIZES, **fields})


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def test_transformers_4_and_5_mean_the_same():
    four = read("llama", rope_theta=500.0, rope_scaling={"type": "llama3", **LLAMA3})
    five = read("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3})
    assert four == five
    assert (four.rope.rope_type, four.rope.rope_theta, four.rope.factor) == ("llama3", 500.0, 8.0)
    assert read("llama", rope_theta=500.0, rope_scaling=None) != four


def test_two_bases_are_read_from_either():
    four = read(
        "gemma3_text", rope_theta=700.0, rope_local_base_freq=50.0, rope_scaling={"factor": 2.0, "type": "linear"}
    )
    kinds = {FULL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0}, SLIDING: {"rope_theta": 50.0}}
    assert four == read("gemma3_text", rope_parameters=kinds)
    assert (four.rope.rope_theta, four.local_rope.rope_theta, four.local_rope.rope_type) == (700.0, 50.0, "default")
    bare = read("gemma3_text")
    assert (bare.rope.rope_theta, bare.local_rope.rope_theta) == (1e6, 1e4)


@pytest.mark.parametrize(
    ("family", "fields", "expected"),
    [
        ("llama", {"sliding_window": 8}, "ffff"),
        ("mistral", {"sliding_window": 8}, "ssss"),
        ("mistral", {}, "ssss"),
        ("mistral", {"sliding_window": None}, "ffff"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}, "fffs"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, "ssss"),
        ("qwen2", {"use_sliding_window": False, "max_window_layers": 0}, "ffff"),
        ("qwen3", {"use_sliding_window": True, "layer_types": [FULL, SLIDING, FULL, FULL]}, "fsff"),
        ("gemma2", {}, "sfsf"),
        ("gemma3_text", {"sliding_window_pattern": 3}, "ssfs"),
        ("gemma3_text", {}, "ssss"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8, "no_rope_layers": [1, 0, 1, 1]}, "fsff"),
        ("smollm3", {}, "ffff"),
        ("phi3", {"sliding_window": 8}, "ssss"),
    ],
)
def test_the_layers_with_a_window_are_transformers(family, fields, expected):
    assert "".join(kind[0] for kind in read(family, **fields).layer_types) == expected


def test_layers_without_positions():
    kinds = read("smollm3").layer_kinds
    assert [kind.rope is None for kind in kinds] == [False, False, False, True]
    assert [kind.rope is None for kind in read("smollm3", no_rope_layers=[0, 1, 1, 1]).layer_kinds][:2] == [True, False]
    assert all(kind.rope is not None for kind in read("llama").layer_kinds)


@pytest.mark.parametrize("family", sorted(TRAITS))
def test_a_file_without_any_size_has_transformers_defaults(family):
    config = DecoderConfig.from_json({"model_type": family})
    nulls = {"rope_scaling": None, "head_dim": None, "num_key_value_heads": None, "attention_bias": None}
    with_nulls = DecoderConfig.from_json({"model_type": family, **nulls})
    assert with_nulls == config
    assert config.rope.rope_theta == {"smollm3": 2e6, "gemma3_text": 1e6}.get(family, 1e4)


@pytest.mark.parametrize("family", sorted(TRAITS))
def test_what_is_written_reads_the_same(family):
    fields = {"num_labels": 3, "tie_word_embeddings": True, "eos_token_id": [1, 2], "rms_norm_eps": 1e-3}
    if family not in ("phi3", "gemma3_text"):
        fields["rope_scaling"] = {"rope_type": "yarn", "factor": 4.0, "truncate": False}
    if family == "phi3":
        fields |= {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}}
        fields |= {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 8}
    if family == "gemma3_text":
        local = {"rope_type": "linear", "factor": 2.0, "rope_theta": 70.0}
        fields["rope_parameters"] = {FULL: {"rope_type": "default", "rope_theta": 7.0}, SLIDING: local}
    if family.startswith("qwen"):
        fields |= {"use_sliding_window": True, "max_window_layers": 2}
    config = read(family, **fields)
    assert DecoderConfig.from_json(config.to_json()) == config


def test_a_phi3_writes_only_what_transformers_4_allows():
    scaling = {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}
    config = read("phi3", rope_scaling=scaling, original_max_position_embeddings=8)
    assert config.rope.factor == 8
    assert {
        name: list(v) if isinstance(v, tuple) else v for name, v in config.to_json()["rope_scaling"].items()
    } == scaling


def test_biases_are_the_families():
    def biases(family, **fields):
        config = read(family, **fields)
        return [name for name in ("query", "value", "out", "gate", "down") if config.has_bias(name)]

    assert biases("llama") == []
    assert biases("llama", attention_bias=True) == ["query", "value", "out"]
    assert biases("llama", mlp_bias=True) == ["gate", "down"]
    assert biases("qwen2", attention_bias=False) == ["query", "value"]
    assert biases("mistral", attention_bias=True, mlp_bias=True) == []


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("llama", {"num_key_value_heads": 3}, r"num_attention_heads 4 is not divisible by num_key_value_heads 3"),
        ("llama", {"hidden_size": 15, "head_dim": None}, r"hidden_size 15 is not divisible"),
        ("llama", {"hidden_act": "swiglu"}, r"unsupported hidden_act 'swiglu'"),
        ("llama", {"rope_scaling": [1]}, r"'rope_scaling' must be an object or null"),
        ("llama", {"rope_scaling": {"type": ["linear"]}}, r"'rope_type' must be a string"),
        ("llama", {"rope_scaling": {"type": "linear"}}, r"rope_type 'linear' needs 'factor'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, r"'factor' must be a number"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, r"a phi3 has rope_type 'default' or 'longrope'"),
        ("llama", {"rope_theta": "x"}, r"'rope_theta' must be a number"),
        ("llama", {"partial_rotary_factor": 0.5}, r"which only a Phi-3 can have"),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_theta": 5.0}},
            r"must have 'full_attention' and 'sliding_attention'",
        ),
        ("qwen2", {"rope_parameters": {FULL: {"rope_theta": 5.0}}}, r"two kinds of rotary positions"),
        ("qwen2", {"layer_types": [SLIDING] * 4}, r"there is no sliding_window"),
        ("qwen2", {"layer_types": [FULL] * 3}, r"layer_types has 3 entries, and there are 4 layers"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, r"'linear_attention' is not supported"),
        ("gemma2", {"use_bidirectional_attention": True}, r"causal decoder"),
        ("gemma2", {"final_logit_softcapping": 0.0}, r"final_logit_softcapping must be above 0"),
        ("smollm3", {"no_rope_layers": [2] * 4}, r"must be a list of 0 and 1"),
        ("llama", {"attention_dropout": 1.5}, r"attention_dropout must be from 0 to 1, not 1.5"),
        ("llama", {"num_hidden_layers": 10**12}, r"num_hidden_layers must be at most 10,000"),
        ("llama", {"max_position_embeddings": 10**400}, r"max_position_embeddings must be at most 2,147,483,647"),
        ("llama", {"head_dim": 10**12}, r"head_dim must be at most 65,536"),
        ("mistral", {"sliding_window": 10**12}, r"sliding_window must be at most 2,147,483,647"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 10**400}}, r"'factor' must be a number"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 1e-320}}, r"'beta_fast' must be from"),
    ],
)
def test_mistakes_are_named(family, fields, message):
    with pytest.raises(UserError, match=rf"config\.json: .*{message}"):
        read(family, **fields)
