"""Attention by cuDNN, as far as a machine without a GPU can tell: what it is given, and that JAX takes it."""

import itertools
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from hut_jax.core.errors import UserError
from hut_jax.costs.flops import count_flops
from hut_jax.models.attention import check_attention
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.traits import FULL as ALL
from hut_jax.models.decoder.traits import SLIDING
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.layers import recomputed
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig

FULL = pytest.mark.full
MODELS = {
    "gpt2": (GPT2, GPT2Config(23, 12, 16, 2, 2)),
    "roberta": (
        Roberta,
        RobertaConfig(
            model_type="roberta",
            head="mlm",
            vocab_size=23,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        ),
    ),
    # Groups of heads, together wider than the model, and two kinds of layers, one with a window.
    "decoder": (
        Decoder,
        DecoderConfig(
            model_type="qwen3",
            vocab_size=23,
            hidden_size=16,
            intermediate_size=12,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=16,
            sliding_window=3,
            layer_types=(SLIDING, ALL),
        ),
    ),
}


@pytest.fixture
def on_an_h100(monkeypatch):
    """JAX's first device says that it is one."""
    device = types.SimpleNamespace(compute_capability="9.0", device_kind="NVIDIA H100")
    monkeypatch.setattr(jax, "devices", lambda: [device])
    return device


@pytest.fixture
def asked(on_an_h100, monkeypatch):
    """The implementations that were asked for; XLA's stands in for cuDNN's."""
    plain, asked = jax.nn.dot_product_attention, []

    def attention(query, key, value, *, mask, scale, implementation=None):
        if implementation == "cudnn":
            assert isinstance(scale, float)
            assert mask.shape[-2:] == (query.shape[1], key.shape[1])
            assert query.shape[1] % 2 == 0
        asked.append(implementation)
        return plain(query, key, value, mask=mask, scale=scale)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    return asked


def made(family, length, dtype=jnp.bfloat16, **options):
    """A model whose attention matters, its parameters, ids and a mask with padding."""
    kind, config = MODELS[family]
    model = kind(config, dtype, **options)
    leaves, tree = jax.tree.flatten_with_path(jax.eval_shape(partial(init_params, model), jax.random.key(1)))
    random = np.random.default_rng(0)
    params = tree.unflatten(
        [random.normal(path[-1].key == "scale", 0.5, leaf.shape).astype(np.float32) for path, leaf in leaves]
    )
    ids = random.integers(4, 23, (3, length), np.int32)
    return model, params, ids, np.arange(length) < np.array([[length], [4], [1]])


@pytest.mark.parametrize(
    ("family", "length", "scan_layers"),
    [
        case if case in (("gpt2", 5, True), ("roberta", 5, False)) else pytest.param(*case, marks=FULL)
        for case in itertools.product(MODELS, (5, 6), (False, True))
    ],
)
def test_cudnn_is_given_what_xla_is(family, length, scan_layers, asked):
    plain, params, ids, mask = made(family, length, scan_layers=scan_layers)
    fused = plain.clone(attention="cudnn")

    def logits(model):
        run = jax.jit(lambda params, ids, mask: model.apply({"params": params}, ids, mask))
        return np.asarray(run(params, ids, mask))[mask]  # of padding nobody asks

    expected = logits(plain)
    asked.clear()
    # In a scan the query takes the scale beforehand, rounded; it is 8 ** -0.5 here.
    np.testing.assert_allclose(logits(fused), expected, rtol=0, atol=0.15 if scan_layers and family == "gpt2" else 0)
    assert np.std(expected) > 1
    assert set(asked) == {"cudnn"}


@pytest.mark.parametrize("family", MODELS)
def test_cudnn_drops_no_weights(family, asked):
    plain, params, ids, mask = made(family, 6)
    fused = plain.clone(attention="cudnn")
    asked.clear()
    rngs = {"dropout": jax.random.key(2)}
    jax.eval_shape(lambda params: fused.apply({"params": params}, ids, mask, deterministic=False, rngs=rngs), params)
    assert asked == ["cudnn", "cudnn"]


@pytest.mark.parametrize(
    ("family", "length", "scan_layers", "remat"),
    [
        case if case == ("gpt2", 5, True, "dots") else pytest.param(*case, marks=FULL)
        for family, length in itertools.product(MODELS, (5, 6))
        for case in ((family, length, *how) for how in ((False, "none"), (True, "none"), (True, "dots")))
    ],
)
def test_jax_takes_it_for_cudnn_with_its_gradient(family, length, scan_layers, remat, on_an_h100, monkeypatch):
    """JAX checks shapes and dtypes while it traces, which needs no GPU but for the version of its library."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda _: False)
    plain, params, ids, mask = made(family, length, scan_layers=scan_layers, remat=remat)

    def gradient(model):
        return jax.grad(lambda params: model.apply({"params": params}, ids, mask).sum())

    fused = plain.clone(attention="cudnn")
    jax.eval_shape(gradient(fused), params)
    # The products that it fuses count as XLA's do; the rest of attention, and a pad to an even length, is little.
    counted, expected = (count_flops(gradient(model), params).flops for model in (fused, plain))
    assert counted == pytest.approx(expected, rel=0.15)


def test_with_a_cache_attention_is_xlas(asked):
    model, params, ids, _ = made("gpt2", 4, attention="cudnn")
    asked.clear()

    def run(params):
        cache = model.apply({"params": params}, 3, 4, method="init_cache")
        return model.apply({"params": params}, ids, cache=cache)

    jax.eval_shape(run, params)
    assert "cudnn" not in asked
    jax.eval_shape(lambda params: model.apply({"params": params}, ids), params)
    assert "cudnn" in asked


def test_cudnn_is_refused_where_it_cannot_be():
    with pytest.raises(UserError, match="runs on NVIDIA GPUs, and JAX runs on cpu here; 'xla' has no such limits"):
        check_attention("cudnn", jnp.bfloat16, 64)


def test_cudnn_is_refused_to_devices_and_models_that_it_is_not_for(on_an_h100):
    check_attention("cudnn", jnp.bfloat16, 64)
    with pytest.raises(UserError, match="computes in bfloat16, and the model in float32"):
        check_attention("cudnn", jnp.float32, 64)
    for width in (12, 136):
        with pytest.raises(UserError, match=f"and the model's have width {width}"):
            check_attention("cudnn", jnp.bfloat16, width)
    on_an_h100.compute_capability, on_an_h100.device_kind = "7.5", "Tesla T4"
    with pytest.raises(UserError, match=r"needs compute capability 8.0 \(Ampere\) or later, and Tesla T4 has 7.5"):
        check_attention("cudnn", jnp.bfloat16, 64)
    on_an_h100.compute_capability, on_an_h100.device_kind = "gfx90a", "AMD Instinct MI250X"
    with pytest.raises(UserError, match="runs on NVIDIA GPUs, and JAX runs on AMD Instinct MI250X here"):
        check_attention("cudnn", jnp.bfloat16, 64)


def test_wrong_names_are_told_the_right_ones():
    with pytest.raises(UserError, match="attention is 'cuddn'; did you mean 'cudnn'"):
        check_attention("cuddn", jnp.bfloat16, 64)
    with pytest.raises(UserError, match="remat is 'everything'; valid: 'dots', 'full', 'none'"):
        recomputed(object, "everything", deterministic=1, scanned=False)
