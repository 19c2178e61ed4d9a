"""GGUF files against transformers: a model that goes through GGUF and back, and transformers' own loader of GGUF."""

import math

import numpy as np
import pytest

from hut_jax import convert_gguf
from hut_jax.models.gguf.blocks import unpack
from tests.gguf_files import converted, random_blocks, tiny_tokenizer, write_file
from tests.parity import check_parity

pytestmark = pytest.mark.peers
gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"rope_type": "longrope", "long_factor": [2.0, 3.0, 4.0], "short_factor": [1.0, 1.5, 1.0]}
LONG = {name: value * 2 if isinstance(value, list) else value for name, value in LONG.items()}

# llama.cpp's architecture, transformers' config
CASES = {
    "llama": ("llama", transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama, biases": ("llama", transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama, llama3": ("llama", transformers.LlamaConfig(**SIZES, rope_theta=5e5, rope_scaling=LLAMA3)),
    "llama, linear": (
        "llama",
        transformers.LlamaConfig(**SIZES, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    ),
    "mistral": ("llama", transformers.MistralConfig(**SIZES, sliding_window=6, head_dim=24)),
    "smollm3": ("smollm3", transformers.SmolLM3Config(**SIZES)),
    "qwen2": ("qwen2", transformers.Qwen2Config(**SIZES, rope_scaling=YARN, rope_theta=1e6)),
    "qwen3": ("qwen3", transformers.Qwen3Config(**SIZES, head_dim=24)),
    "gemma2": ("gemma2", transformers.Gemma2Config(**SIZES, head_dim=24, query_pre_attn_scalar=24, sliding_window=6)),
    "gemma3": (
        "gemma3",
        transformers.Gemma3TextConfig(
            **{**SIZES, "num_hidden_layers": 7}, head_dim=24, query_pre_attn_scalar=24, sliding_window=6
        ),
    ),
    "phi3": (
        "phi3",
        transformers.Phi3Config(
            **SIZES,
            partial_rotary_factor=0.75,
            original_max_position_embeddings=32,
            rope_scaling=LONG,
        ),
    ),
    "gpt2": ("gpt2", transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=128, vocab_size=2048)),
}
IDS = torch.tensor(np.random.default_rng(0).integers(0, 2048, (2, 40)))


def random_model(config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits.float().numpy()


def rope_of(config):
    """A config's rotary settings; those of full attention where kinds of layers have their own."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def metadata(architecture, config):
    """The fields that llama.cpp's converter writes."""
    if architecture == "gpt2":
        return {
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "feed_forward_length": 4 * config.n_embd,
            "block_count": config.n_layer,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    rope = rope_of(config)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fields = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(head * rope.get("partial_rotary_factor", 1.0)),
        "vocab_size": config.vocab_size,
    }
    if rope["rope_type"] in ("linear", "yarn"):
        fields |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        fields["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if architecture == "phi3":
        fields["rope.scaling.original_context_length"] = config.original_max_position_embeddings
    if getattr(config, "sliding_window", None) is not None and architecture != "qwen2":
        fields["attention.sliding_window"] = config.sliding_window
    if architecture == "gemma2":
        fields["attn_logit_softcapping"] = float(config.attn_logit_softcapping)
        fields["final_logit_softcapping"] = float(config.final_logit_softcapping)
    return fields


def factors(config):
    """The tensors of factors that llama.cpp's converter adds."""
    rope = rope_of(config)
    if rope.get("rope_type") == "longrope":
        return {f"rope_factors_{name}.weight": np.float32(rope[f"{name}_factor"]) for name in ("long", "short")}
    if rope.get("rope_type") != "llama3":
        return {}
    found = []
    for i in range(0, config.head_dim, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (i / config.head_dim)
        smooth = (8192 / length - 1) / 3
        slow = 8.0 if length > 8192 else 1 / ((1 - smooth) / 8 + smooth)
        found.append(1.0 if length < 8192 / 4 else slow)
    return {"rope_freqs.weight": np.float32(found)}


def write(folder, architecture, model, kinds=None):
    config = model.config
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    layers = getattr(config, "num_hidden_layers", None)
    heads = getattr(config, "num_attention_heads", None)
    theirs = converted(architecture, tensors, layers, heads, getattr(config, "num_key_value_heads", heads))
    theirs |= factors(config)
    fields = {**tiny_tokenizer(), **metadata(architecture, config)}
    if config.pad_token_id is not None:
        fields[".tokenizer.ggml.padding_token_id"] = config.pad_token_id
    wide = {name: kinds for name, tensor in theirs.items() if tensor.ndim == 2} if kinds else {}
    for name in wide if kinds in SCALES else ():
        kind = gguf.GGMLQuantizationType[kinds]
        theirs[name] = random_blocks(kind, *theirs[name].shape, scale=SCALES[kinds])
    folder.mkdir(exist_ok=True)
    return write_file(folder / "model.gguf", architecture, fields, theirs, wide)


def load(folder, **kwargs):
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True, **kwargs
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return model


@pytest.mark.parametrize("name", CASES)
def test_a_model_that_went_through_gguf_computes_the_same(tmp_path, name):
    architecture, config = CASES[name]
    model = random_model(config)
    convert_gguf(write(tmp_path, architecture, model), tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert type(loaded) is type(model)
    other = random_model(config)
    with torch.no_grad():
        for key, parameter in other.named_parameters():
            if key.endswith(("k_proj.weight", "qkv_proj.weight", "c_attn.weight")):
                parameter.copy_(parameter.flip(0))
    check_parity(logits(loaded), logits(model), logits(other), 2e-5)


# transformers' loader reads neither GPT-2's positions, the factors of Phi-3 nor YaRN.
LOADED = {
    "llama": CASES["llama"],
    "llama, wide": ("llama", transformers.LlamaConfig(**SIZES | {"hidden_size": 256, "intermediate_size": 512})),
    "qwen2": ("qwen2", transformers.Qwen2Config(**SIZES)),
    "phi3": ("phi3", transformers.Phi3Config(**{**SIZES, "pad_token_id": 0})),
    "gpt2": ("gpt2", transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=2048)),
}
# Of the types to which the package cannot quantise: their blocks, of 256 weights, are drawn at random.
SCALES = {"Q4_K": 2e-4, "Q6_K": 5e-5}
KINDS = [("llama", kind) for kind in ("F32", "Q8_0", "Q4_0", "Q4_1", "F16", "BF16")]
KINDS += [("llama, wide", kind) for kind in SCALES]


@pytest.mark.parametrize(("name", "kind"), [*KINDS, ("qwen2", "Q8_0"), ("phi3", "Q8_0"), ("gpt2", "Q8_0")])
def test_a_file_computes_what_transformers_own_load_computes(tmp_path, name, kind):
    architecture, config = LOADED[name]
    model = random_model(config)
    convert_gguf(write(tmp_path, architecture, model, kind), tmp_path / "out")
    ours, theirs = load(tmp_path / "out"), load(tmp_path, gguf_file="model.gguf")
    expected = logits(theirs)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.01)
    check_parity(logits(ours), expected, logits(theirs), 2e-5)
    assert (np.abs(expected - logits(model)).max() < 1e-4) == (kind == "F32")


def test_the_real_smollm2_has_the_parameters_of_transformers_own_load(smollm2):
    file, folder = smollm2
    ours, theirs = load(folder).state_dict(), load(file.parent, gguf_file=file.name).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_are_what_transformers_torch_code_makes_of_them(name):
    dequant = pytest.importorskip("transformers.integrations.gguf.dequant")
    kind = gguf.GGMLQuantizationType[name]
    items, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 256, (6, size), np.uint8)
    # Random bytes give scales of any size. Those that are not finite are left out.
    raw[:, 1::2] &= 0x3B
    theirs = dequant.dequantize(torch.from_numpy(raw.copy()), int(kind)).numpy()
    ours = unpack(raw.ravel(), int(kind), (6, items)).ravel()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.isfinite(ours).all()
    assert ours.std() > 0


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_tokens_are_those_of_transformers_own_load(tmp_path, pre):
    fields = {**tiny_tokenizer(), ".tokenizer.ggml.pre": pre, ".tokenizer.ggml.bos_token_id": 7}
    model = random_model(CASES["llama"][1])
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    path = write_file(
        tmp_path / "model.gguf",
        "llama",
        {**fields, **metadata("llama", model.config)},
        converted("llama", tensors, 4, 4, 2),
    )
    convert_gguf(path, tmp_path / "out")
    ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in ("We're at 12345 CamelCase  IT'S\n\n\tx", "Größe ☃ 東京 e\u0301 don't'll", "a<|endoftext|>b"):
        found = ours(text, add_special_tokens=False).input_ids
        expected = theirs(text if pre != "qwen2" else text.replace("e\u0301", "é"), add_special_tokens=False).input_ids
        assert found == expected, (pre, text)
