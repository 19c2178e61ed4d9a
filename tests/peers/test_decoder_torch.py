"""Against PyTorch's decoders, live: every family and type of rotary positions, over random shapes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.models.compute import Compute
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.traits import TRAITS
from hut_jax.models.hub.pretrained import build_model, load_pretrained
from hut_jax.models.hub.saving import save_pretrained
from tests.parity import change, check_parity

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FAMILIES = sorted(TRAITS)
WINDOW = 5
SLIDING = {
    "mistral": {"sliding_window": WINDOW},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "gemma2": {"sliding_window": WINDOW},
    "gemma3_text": {"sliding_window": WINDOW, "sliding_window_pattern": 2},
    "smollm3": {"use_sliding_window": True, "sliding_window": WINDOW, "no_rope_layer_interval": 2},
}
# The shapes: heads, groups, width of a head (None: the hidden size's share), layers, whether the head is tied.
SHAPES = [(4, 2, None, 3, False), (3, 1, 6, 2, True), (2, 2, None, 4, True)]
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn, all fields": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "yarn, attention": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.3,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 8,
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
    },
}


def random_case(family, shape, *, seed=0, head="ForCausalLM", layers_slide=True, **fields):
    """A model with every parameter random, and a batch of padded and unpadded texts: ids and mask.

    The longest text is more than twice the window. The others are padded on the right, and on the left.
    """
    random = np.random.default_rng(seed)
    heads, groups, width, layers, tied = SHAPES[shape]
    fields = {
        "vocab_size": int(random.integers(20, 90)),
        "hidden_size": heads * 8,
        "intermediate_size": int(random.integers(5, 40)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 64,
        "rms_norm_eps": float(random.choice([1e-6, 1e-3])),
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "pad_token_id": 0,
        "attn_implementation": "eager",
        **({"head_dim": width or 8} if "head_dim" in TRAITS[family].fields else {}),
        **({"attention_bias": shape == 1} if "attention_bias" in TRAITS[family].fields else {}),
        **({"mlp_bias": shape == 1} if "mlp_bias" in TRAITS[family].fields else {}),
        **({"query_pre_attn_scalar": 11} if "query_pre_attn_scalar" in TRAITS[family].fields else {}),
        **({"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0} if family == "gemma2" else {}),
        **(SLIDING.get(family, {}) if layers_slide else {}),
        **fields,
    }
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **fields)
    auto = {"ForCausalLM": "AutoModelForCausalLM", "Model": "AutoModel"}.get(head, f"AutoModel{head}")
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith("norm.weight") or "layernorm" in name
            parameter.copy_(float(norm and "gemma" not in family) + 0.3 * torch.randn_like(parameter))
    length = 2 * WINDOW + 4
    counts, places = np.array([[4], [WINDOW + 3], [length]]), np.arange(length)
    mask = np.concatenate([places < counts, places >= length - counts[:2]])
    ids = random.integers(1, fields["vocab_size"], mask.shape)
    return model, np.where(mask, ids, 0), mask


def their_logits(model, ids, mask=None, **more):
    mask = None if mask is None else torch.tensor(mask.astype(np.int64))
    with torch.no_grad():
        return model(torch.tensor(ids), attention_mask=mask, **more).logits


def check(folder, theirs, ids, mask, tolerance=1e-4, **compute):
    theirs.save_pretrained(folder)
    model, params = load_pretrained(folder, compute=Compute(**compute))
    assert type(model) is Decoder
    run = jax.jit(model.apply)
    ours, changed = (np.asarray(run({"params": given}, ids, mask))[mask] for given in (params, change(params)))
    check_parity(ours, their_logits(theirs, ids, mask).numpy()[mask], changed, tolerance)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(tmp_path, family, shape):
    check(tmp_path, *random_case(family, shape), scan_layers=shape == 0)


def rope_fields(family, name):
    """The fields of config.json for a type of rotary positions; the text is longer than what it is stretched from."""
    rope = {"rope_theta": 500.0, **ROPES[name]}
    if family == "gemma3_text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}
    original = {"original_max_position_embeddings": 8} if family == "phi3" else {}
    return {"rope_parameters": rope, "max_position_embeddings": 9 if name == "dynamic" else 64, **original}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family in FAMILIES
        for name in ROPES
        if (family != "phi3" or name in ("default", "longrope")) and (family == "llama" or "," not in name)
    ],
)
def test_rotary_positions(tmp_path, family, name):
    """Phi-3's are default or longrope."""
    theirs, ids, mask = random_case(family, 0, num_hidden_layers=2, **rope_fields(family, name))
    check(tmp_path, theirs, ids, mask)
    assert load_pretrained(tmp_path)[0].config.rope.rope_type == name.partition(",")[0]
    if name != "default":
        plain, *_ = random_case(family, 0, num_hidden_layers=2, **rope_fields(family, "default"))
        apart = (their_logits(plain, ids, mask) - their_logits(theirs, ids, mask)).numpy()[mask]
        assert np.abs(apart).max() > 1e-2


@pytest.mark.parametrize("length", [8, 9])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_longrope(tmp_path, length, share):
    """Up to the original length the short factors hold, beyond it the long ones."""
    half = int(8 * share) // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0 + i / 3 for i in range(half)],
        "long_factor": [2.0 + i for i in range(half)],
        "partial_rotary_factor": share,
    }
    theirs, ids, mask = random_case("phi3", 0, rope_parameters=rope, original_max_position_embeddings=8)
    check(tmp_path, theirs, ids[:, -length:], mask[:, -length:])


def test_two_bases_by_layer(tmp_path):
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 700.0},
        "sliding_attention": {"rope_theta": 50.0, **ROPES["llama3"]},
    }
    theirs, ids, mask = random_case("gemma3_text", 0, rope_parameters=ropes)
    check(tmp_path, theirs, ids, mask)


def old(config, **changes):
    """The config.json that transformers 4 writes."""
    ropes = config.pop("rope_parameters")
    config["rope_theta"] = ropes.pop("rope_theta")
    config["rope_scaling"] = {"type": ropes.pop("rope_type"), **ropes} if len(ropes) > 1 else None
    return config | changes


@pytest.mark.parametrize("name", ["default", "linear", "yarn"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_old_files_mean_the_same(tmp_path, family, name):
    theirs, ids, _ = random_case(family, 0, rope_parameters={"rope_theta": 500.0, **ROPES[name]})
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    own = build_model(tmp_path).config
    expected = their_logits(theirs, ids)
    config = old(json.loads(file.read_text()))
    for name in ("layer_types", "head_dim"):
        config.pop(name, None)
    file.write_text(json.dumps(config))
    assert build_model(tmp_path).config == own
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(their_logits(again, ids), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_what_is_saved(tmp_path, family):
    theirs, ids, mask = random_case(family, 1)
    theirs.save_pretrained(tmp_path / "theirs")
    model, params = load_pretrained(tmp_path / "theirs", compute=Compute(scan_layers=family == "phi3"))
    save_pretrained(tmp_path / "ours", model, params)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values())
    assert type(again) is type(theirs)
    state = again.state_dict()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert torch.equal(their_logits(again.eval(), ids, mask), their_logits(theirs, ids, mask))
    assert build_model(tmp_path / "ours").config == model.config


@pytest.mark.parametrize("name", ["llama3", "yarn, all fields", "dynamic", "linear"])
def test_transformers_reads_our_rotary_positions(tmp_path, name):
    theirs, *_ = random_case("llama", 0, rope_parameters={"rope_theta": 500.0, **ROPES[name]})
    theirs.save_pretrained(tmp_path / "theirs")
    save_pretrained(tmp_path / "ours", *load_pretrained(tmp_path / "theirs"))
    again = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert again.rope_parameters == theirs.config.rope_parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_classification_reads_the_last_token(tmp_path, family):
    """Of rows that are padded on the right, and on the left."""
    theirs, ids, mask = random_case(family, 1, head="ForSequenceClassification", num_labels=3)
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    run = jax.jit(model.apply)
    ours, changed = (np.asarray(run({"params": given}, ids, mask)) for given in (params, change(params)))
    check_parity(ours, their_logits(theirs, ids, mask).numpy(), changed, 1e-4)


def test_bf16_errs_no_more_than_torchs(tmp_path):
    theirs, ids, mask = random_case("llama", 0)
    theirs.save_pretrained(tmp_path)
    exact = their_logits(theirs, ids, mask).numpy()[mask]
    rounded = their_logits(theirs.to(torch.bfloat16), ids, mask).float().numpy()[mask]
    model, params = load_pretrained(tmp_path, compute=Compute(dtype=jnp.bfloat16))
    run = jax.jit(model.apply)
    ours, changed = (np.asarray(run({"params": given}, ids, mask))[mask] for given in (params, change(params)))
    own, others, peer = (np.sqrt(np.mean((logits - exact) ** 2)) for logits in (ours, changed, rounded))
    assert own < 1.3 * peer < others


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_gradients(tmp_path, family):
    """Of a loss on the next token, with respect to every parameter."""
    theirs, ids, mask = random_case(family, 0)
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)

    def loss(params):
        logs = jax.nn.log_softmax(model.apply({"params": params}, ids, mask)[:, :-1])
        picked = jnp.take_along_axis(logs, jnp.asarray(ids)[:, 1:, None], -1)[..., 0]
        return -(picked * mask[:, :-1]).sum()

    gradients = jax.jit(jax.grad(loss))
    ours, changed = gradients(params), gradients(change(params))
    logs = torch.log_softmax(theirs(torch.tensor(ids), attention_mask=torch.tensor(mask).long()).logits[:, :-1], -1)
    picked = logs.gather(-1, torch.tensor(ids)[:, 1:, None])[..., 0]
    (-(picked * torch.tensor(mask)[:, :-1]).sum()).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path / "gradients")
    expected = load_pretrained(tmp_path / "gradients")[1]
    check_parity(ours, expected, changed, 1e-4)
