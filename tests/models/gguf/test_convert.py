"""GGUF files become Hugging Face folders: tensors to the bit, config.json, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, convert_gguf
from hut_jax.core.files import stream_tensors
from hut_jax.models.gguf import config as gguf_config
from hut_jax.models.gguf import convert
from hut_jax.models.gguf.__main__ import main
from tests.gguf_files import converted, import_gguf, tiny_tokenizer, write_file

LAYERS, WIDTH, INNER, HEADS, KV_HEADS, TOKENS = 2, 32, 64, 4, 2, 2048
SIZES = {
    "context_length": 128,
    "block_count": LAYERS,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
}
DECODER = {**SIZES, "attention.head_count_kv": KV_HEADS, "attention.layer_norm_rms_epsilon": 1e-5}
JSON = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "vocab_size": TOKENS,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
    "bos_token_id": None,
}


def layer(i, attention, mlp, norms, head=8, biased=()):
    """The tensors of a layer, by Hugging Face's names, and their shapes."""
    shapes = {f"{name}.weight": (WIDTH,) for name in norms}
    rows = {"q_proj": HEADS * head, "k_proj": KV_HEADS * head, "v_proj": KV_HEADS * head}
    rows |= {"qkv_proj": (HEADS + 2 * KV_HEADS) * head, "o_proj": WIDTH}
    for name in attention:
        columns = HEADS * head if name == "o_proj" else WIDTH
        shapes[f"self_attn.{name}.weight"] = (rows[name], columns)
        if name in biased:
            shapes[f"self_attn.{name}.bias"] = (rows[name],)
    wide = {"gate_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH), "down_proj": (WIDTH, INNER)}
    wide |= {"gate_up_proj": (2 * INNER, WIDTH)}
    for name in mlp:
        shapes[f"mlp.{name}.weight"] = wide[name]
        if name in biased:
            shapes[f"mlp.{name}.bias"] = wide[name][:1]
    return {f"model.layers.{i}.{name}": shape for name, shape in shapes.items()}


SPLIT, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
TWO = ("input_layernorm", "post_attention_layernorm")
FOUR = (*TWO, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def decoder(*args, head=8, untied=False, head_norms=False, **kwargs):
    shapes = {"model.embed_tokens.weight": (TOKENS, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= layer(i, *args, head=head, **kwargs)
        names = ("q_norm", "k_norm") if head_norms else ()
        shapes |= {f"model.layers.{i}.self_attn.{name}.weight": (head,) for name in names}
    return shapes | ({"lm_head.weight": (TOKENS, WIDTH)} if untied else {})


def gpt2():
    shapes = {"wte.weight": (TOKENS, WIDTH), "wpe.weight": (128, WIDTH), "ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    wide = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    wide |= {"mlp.c_fc": (WIDTH, INNER), "mlp.c_proj": (INNER, WIDTH)}
    for i in range(LAYERS):
        for name, shape in wide.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        shapes |= {f"h.{i}.{name}.{leaf}": (WIDTH,) for name in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


TANH = {"hidden_activation": "gelu_pytorch_tanh"}
# The architecture, its shapes, its metadata, and what of config.json differs from JSON.
CASES = {
    "llama": (
        "llama",
        decoder(SPLIT, MLP, TWO),
        DECODER,
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    ),
    "llama, untied, with biases": (
        "llama",
        decoder(SPLIT, MLP, TWO, untied=True, biased=(*SPLIT, *MLP)),
        {**DECODER, "rope.freq_base": 5e5, ".tokenizer.ggml.bos_token_id": 1},
        {
            "model_type": "llama",
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "rope_theta": 5e5,
            "bos_token_id": 1,
        },
    ),
    "mistral": (
        "llama",
        decoder(SPLIT, MLP, TWO, head=16),
        {**DECODER, "attention.sliding_window": 16, "attention.key_length": 16, "attention.value_length": 16},
        {"model_type": "mistral", "sliding_window": 16, "head_dim": 16},
    ),
    "smollm3": (
        "smollm3",
        decoder(SPLIT, MLP, TWO),
        {**DECODER, ".tokenizer.ggml.eot_token_id": 5},
        {"model_type": "smollm3", "no_rope_layers": [1, 1], "no_rope_layer_interval": 4, "eos_token_id": [0, 5]},
    ),
    "qwen2": (
        "qwen2",
        decoder(SPLIT, MLP, TWO, biased=("q_proj", "k_proj", "v_proj")),
        {**DECODER, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"model_type": "qwen2", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "qwen3": (
        "qwen3",
        decoder(SPLIT, MLP, TWO, head=16, head_norms=True),
        {
            **DECODER,
            "attention.key_length": 16,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
        {
            "model_type": "qwen3",
            "head_dim": 16,
            "attention_bias": False,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
        },
    ),
    "gemma2": (
        "gemma2",
        decoder(SPLIT, MLP, FOUR),
        {**DECODER, "attention.sliding_window": 16, "attn_logit_softcapping": 40.0},
        {
            "model_type": "gemma2",
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 40.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            **TANH,
        },
    ),
    "gemma3": (
        "gemma3",
        decoder(SPLIT, MLP, FOUR, head_norms=True),
        {**DECODER, "attention.sliding_window": 16, "rope.freq_base": 1e6, "rope.scaling.type": "linear"}
        | {"rope.scaling.factor": 8.0},
        {
            "model_type": "gemma3_text",
            "architectures": ["Gemma3ForCausalLM"],
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "layer_types": ["sliding_attention"] * 2,
            "final_logit_softcapping": None,
            **TANH,
        },
    ),
    "phi3": (
        "phi3",
        decoder(("qkv_proj", "o_proj"), ("gate_up_proj", "down_proj"), TWO, untied=True),
        {**DECODER, "attention.sliding_window": 0, "rope.dimension_count": 6}
        | {"rope.scaling.original_context_length": 64},
        {
            "model_type": "phi3",
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64,
            "sliding_window": None,
            "tie_word_embeddings": False,
        },
    ),
}
GPT2 = {**SIZES, "attention.layer_norm_epsilon": 1e-5}


def draw(shapes):
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder, architecture, fields, tensors, kinds=None, extra=None):
    """The file of these tensors of Hugging Face's."""
    theirs = converted(architecture, tensors, LAYERS, HEADS, KV_HEADS)
    everything = {**tiny_tokenizer(), **fields}
    return write_file(folder / "model.gguf", architecture, everything, {**theirs, **(extra or {})}, kinds)


@pytest.mark.parametrize("name", CASES)
def test_tensors_and_config_of_every_architecture(tmp_path, name):
    import_gguf()
    architecture, shapes, fields, differs = CASES[name]
    tensors = draw(shapes)
    convert_gguf(write(tmp_path, architecture, fields, tensors), tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        norm = architecture.startswith("gemma") and name.endswith("norm.weight")  # one was added and taken away
        np.testing.assert_allclose(found[name], tensor, atol=3e-7 if norm else 0, rtol=0, err_msg=name)
    values = json.loads((tmp_path / "out/config.json").read_text())
    expected = {**JSON, **differs, "dtype": "float32"}
    assert {name: values[name] for name in expected} == expected


def config(tmp_path, name, **fields):
    """What config.json says if the metadata of one of CASES have these fields, too; None leaves a field out."""
    architecture, shapes, known, _ = CASES[name]
    named = {field.replace("__", "."): value for field, value in fields.items()}
    given = {field: value for field, value in {**known, **named}.items() if value is not None}
    convert_gguf(write(tmp_path, architecture, given, draw(shapes)), tmp_path / "out", tokenizer=False)
    return json.loads((tmp_path / "out/config.json").read_text())


def test_metadata_that_some_files_have(tmp_path):
    import_gguf()
    sliding, full = "sliding_attention", "full_attention"
    values = config(tmp_path, "gemma3", attention__sliding_window_pattern=2, final_logit_softcapping=20.0)
    assert (values["layer_types"], values["final_logit_softcapping"]) == ([sliding, full], 20.0)
    values = config(tmp_path, "gemma2", attention__sliding_window_pattern=[False, True])
    assert values["layer_types"] == [full, sliding]
    values = config(tmp_path, "gemma3", attention__sliding_window=None, rope__freq_base_swa=2e4)
    assert (values["layer_types"], values["rope_local_base_freq"]) == ([full, full], 2e4)
    values = config(tmp_path, "llama", rope__scale_linear=2.0)
    assert values["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    values = config(tmp_path, "qwen3", rope__scaling__yarn_beta_fast=16.0, rope__scaling__yarn_beta_slow=2.0)
    assert (values["rope_scaling"]["beta_fast"], values["rope_scaling"]["beta_slow"]) == (16.0, 2.0)
    values = config(tmp_path, "llama", attention__head_count=[4, 4])
    assert values["num_attention_heads"] == 4


def test_the_largest_gemmas_scale_their_attention_by_another_width(tmp_path, monkeypatch):
    import_gguf()
    assert config(tmp_path, "gemma2", attention__key_length=None)["query_pre_attn_scalar"] == 8
    monkeypatch.setitem(gguf_config._GEMMA_27B, "gemma2", LAYERS)
    architecture, _, fields, _ = CASES["gemma2"]
    shapes = decoder(SPLIT, MLP, FOUR, head=16)
    path = write(tmp_path, architecture, {**fields, "attention.key_length": 16}, draw(shapes))
    convert_gguf(path, tmp_path / "out")
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert (values["head_dim"], values["query_pre_attn_scalar"]) == (16, 8)


def test_a_full_disk_and_a_dtype_that_is_too_small_are_named(tmp_path, monkeypatch):
    import_gguf()
    tensors = draw(CASES["llama"][1])
    tensors["model.norm.weight"][3] = 1e6
    path = write(tmp_path, "llama", DECODER, tensors)
    with pytest.raises(UserError, match=r"model\.norm\.weight has entries that are not finite in float16"):
        convert_gguf(path, tmp_path / "out", dtype="float16")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "stream_tensors", full)
    with pytest.raises(UserError, match=r"could not be written to .*out: No space left on device"):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gpt2_loads_and_its_copied_head_is_tied(tmp_path):
    from hut_jax import load_pretrained

    import_gguf()
    tensors = draw(gpt2())
    copied = {"output.weight": tensors["transformer.wte.weight"]}
    convert_gguf(write(tmp_path, "gpt2", GPT2, tensors, extra=copied), tmp_path / "out")
    model, params = load_pretrained(tmp_path / "out")
    assert model.config.tie_word_embeddings
    np.testing.assert_array_equal(params["layer_1"]["mlp"]["up"]["kernel"], tensors["transformer.h.1.mlp.c_fc.weight"])
    other = {"output.weight": tensors["transformer.wte.weight"][::-1]}
    convert_gguf(write(tmp_path, "gpt2", GPT2, tensors, extra=other), tmp_path / "out")
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert (values["tie_word_embeddings"], values["n_inner"]) == (False, INNER)
    found = load_file(tmp_path / "out/model.safetensors")
    np.testing.assert_array_equal(found["lm_head.weight"], other["output.weight"])


def test_rotary_rows_are_unpaired_and_not_by_chance(tmp_path):
    gguf = import_gguf()
    tensors = draw(CASES["llama"][1])
    path = write(tmp_path, "llama", DECODER, tensors)
    convert_gguf(path, tmp_path / "out")
    name = "model.layers.0.self_attn.k_proj.weight"
    (there,) = [tensor.data for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.0.attn_k.weight"]
    assert np.abs(there - tensors[name]).max() > 1
    np.testing.assert_array_equal(load_file(tmp_path / "out/model.safetensors")[name], tensors[name])


def test_factors_of_llama_3_and_of_longrope_become_settings(tmp_path):
    import_gguf()
    factors = np.float32([1, 1, 1, 32])  # the wavelengths of theta 5e5 and 8 entries: 6, 167, 4443, 118,000
    scaled = {**DECODER, "rope.freq_base": 5e5}
    tensors = draw(CASES["llama"][1])
    # 8192 positions hold 1.84 periods of the third, between 1 and 4
    smooth = (8192 / (2 * np.pi * 5e5**0.5) - 1) / 3
    factors[2] = 1 / ((1 - smooth) / 32 + smooth)
    convert_gguf(write(tmp_path, "llama", scaled, tensors, extra={"rope_freqs.weight": factors}), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    path = write(tmp_path, "llama", scaled, tensors, extra={"rope_freqs.weight": np.float32([1, 2, 3, 32])})
    with pytest.raises(UserError, match="not those of Llama 3"):
        convert_gguf(path, tmp_path / "out")

    architecture, shapes, fields, _ = CASES["phi3"]
    long, short = np.float32([1.1, 2, 3]), np.float32([1, 1.05, 1])
    extra = {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    fields = {**fields, "rope.scaling.attn_factor": 1.2}
    convert_gguf(write(tmp_path, architecture, fields, draw(shapes), extra=extra), tmp_path / "out")
    scaling = json.loads((tmp_path / "out/config.json").read_text())["rope_scaling"]
    assert scaling == {"rope_type": "longrope", "long_factor": [1.1, 2, 3], "short_factor": [1, 1.05, 1]}


def test_files_are_the_same_each_time_and_in_another_dtype_rounded(tmp_path):
    import_gguf()
    tensors = draw(CASES["llama"][1])
    path = write(
        tmp_path, "llama", DECODER, tensors, kinds={"blk.0.ffn_up.weight": "Q4_1", "token_embd.weight": "Q8_0"}
    )
    for name in ("one", "two"):
        main([str(path), f"--output={tmp_path / name}"])
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    whole = load_file(tmp_path / "one/model.safetensors")
    convert_gguf(path, tmp_path / "short", dtype="bfloat16", tokenizer=False)
    assert sorted(file.name for file in (tmp_path / "short").iterdir()) == names[:2]
    for name, tensor in load_file(tmp_path / "short/model.safetensors").items():
        np.testing.assert_array_equal(tensor, whole[name].astype(jnp.bfloat16))
    assert (
        np.abs(whole["model.layers.0.mlp.up_proj.weight"] - tensors["model.layers.0.mlp.up_proj.weight"]).max() > 0.01
    )


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    import_gguf()
    path = write(tmp_path, "llama", DECODER, draw(CASES["llama"][1]))
    main([str(path), f"--output={tmp_path / 'out'}", "--dtype=float16"])
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: llama, 84,128 parameters in float16, 2,048 tokens\n"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_streamed_file_is_that_of_safetensors(tmp_path, dtype):
    random = np.random.default_rng(0)
    shapes = {"b": (3, 5), "a.ü": (7,), "c": (0, 2), "a": (2, 1, 3)}
    tensors = {name: random.normal(size=shape).astype(jnp.dtype(dtype)) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    stream_tensors(tmp_path / "ours", shapes, jnp.dtype(dtype), tensors.__getitem__, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    ("fields", "extra", "message"),
    [
        ({"expert_count": 8}, {}, "a mixture of experts"),
        ({".split.count": 3}, {}, "one of 3 parts"),
        ({"attention.value_length": 4}, {}, "keys and values of different widths"),
        ({"rope.dimension_count": 4}, {}, "4 of the 8 entries of a head are rotary"),
        ({"rope.scaling.type": "longrope"}, {}, "rotary positions of the kind 'longrope'"),
        ({"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 2.0}, {}, "'attn_factor', which config.json cannot"),
        ({"block_count": "2"}, {}, "llama.block_count must be a whole number of at least 1"),
        ({"attention.head_count_kv": [2, 4]}, {}, "the same for all layers, not a list"),
        ({"attention.head_count": 3, "attention.key_length": 8}, {}, "q_proj.weight has 32 rows, which 3 heads do not"),
        ({"block_count": 3}, {}, "9 missing: 'blk.2.attn_norm.weight'"),
        ({"block_count": 1 << 31}, {}, "missing: 'blk.2.attn_norm.weight'"),
        ({"attention.layer_norm_rms_epsilon": True}, {}, "must be a number, not True"),
        ({".tokenizer.ggml.eos_token_id": 5000}, {}, "eos_token_id is 5000, and there are 2048 tokens"),
        ({"rope.freq_base": 0.0}, {"rope_freqs.weight": np.ones(4)}, "not those of Llama 3"),
        ({"attention.key_length": 1 << 31}, {"rope_freqs.weight": np.ones(4)}, "not those of Llama 3"),
        ({}, {"blk.0.attn_sinks.weight": np.ones(4)}, "1 unknown: 'blk.0.attn_sinks.weight'"),
        ({}, {"blk.0.attn_q.bias": np.ones(32)}, "7 missing: 'blk.0.attn_k.bias'"),
        ({}, {"output.weight": np.full((TOKENS, WIDTH), np.inf)}, "lm_head.weight has entries that are not finite"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line_and_nothing_is_written(tmp_path, fields, extra, message):
    import_gguf()
    path = write(tmp_path, "llama", {**DECODER, **fields}, draw(CASES["llama"][1]), extra=extra)
    with pytest.raises(UserError, match=message) as caught:
        convert_gguf(path, tmp_path / "out")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_mistakes_in_the_arguments_and_other_architectures_are_named(tmp_path):
    import_gguf()
    with pytest.raises(UserError, match=r"no file .*nothing\.gguf"):
        convert_gguf(tmp_path / "nothing.gguf", tmp_path / "out")
    path = write_file(tmp_path / "model.gguf", "qwen3moe", {}, {})
    with pytest.raises(UserError, match=r"the architecture 'qwen3moe' is not supported; .*qwen3"):
        convert_gguf(path, tmp_path / "out")
    with pytest.raises(UserError, match="no dtype 'int8'"):
        convert_gguf(path, tmp_path / "out", dtype="int8")


def test_a_gguf_where_a_folder_should_be_says_how_to_convert_it(tmp_path):
    from hut_jax import load_pretrained

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    for name in (path, tmp_path):
        with pytest.raises(UserError, match=r"python -m hut_jax\.models\.gguf .*--output=FOLDER"):
            load_pretrained(name)
