"""Kernels with their axes exchanged are the same kernels, and are multiplied as they lie."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.core import processor
from hut_jax.core.products import dot_general
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.generation import Constraints, Greedy, decoding, generate
from hut_jax.generation.transposed import Transposed, for_decoding
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params

SEPARATE_HEAD = DecoderConfig(
    model_type="llama",
    vocab_size=23,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=2,
    max_position_embeddings=64,
    initializer_range=0.4,
    tie_word_embeddings=False,
)
MODELS = [(GPT2, GPT2Config(23, 64, 8, 2, 2, initializer_range=0.4)), (Decoder, SEPARATE_HEAD)]


def model_and_params(kind, config, dtype="bfloat16"):
    model = kind(config, dtype=jnp.dtype(dtype))
    return model, jax.tree.map(lambda leaf: leaf.astype(dtype), init_params(model, jax.random.key(0)))


def is_box(leaf):
    return isinstance(leaf, Transposed)


def boxes(params):
    return sum(map(is_box, jax.tree.leaves(params, is_leaf=is_box)))


@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_a_model_computes_the_same_with_them(kind, config):
    model, params = model_and_params(kind, config)
    exchanged = for_decoding(model, params)
    tokens = np.random.default_rng(0).integers(0, 23, (2, 9))
    run = jax.jit(lambda params: model.apply({"params": params}, tokens))
    np.testing.assert_allclose(run(exchanged), run(params), rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, nn.meta.unbox(exchanged), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(exchanged, is_leaf=is_box):
        assert is_box(leaf) is (path[0].key != "lm_head" and path[-1].key == "kernel")


@pytest.mark.parametrize("rows", [1, 3])
def test_the_exchange_is_a_part_of_the_product(rows):
    layer = nn.Dense(48, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, dot_general=dot_general)
    x = jnp.ones((4, rows, 32), jnp.bfloat16)
    params = layer.init(jax.random.key(0), x)

    def contracted(params):
        compiled = jax.jit(layer.apply).lower(params, x).compile().as_text()
        assert not re.search(r"= \w+\[(32,48|48,32)\]\S* (copy|transpose|convert)\(", compiled)
        return re.findall(r"rhs_contracting_dims=\{(\d)\}", compiled)

    assert contracted(params) == ["0"]
    kernel = Transposed(params["params"]["kernel"].T)
    assert contracted({"params": params["params"] | {"kernel": kernel}}) == ["1"]


@pytest.mark.parametrize(
    ("dtype", "backend", "units"), [("float32", "cpu", True), ("bfloat16", "gpu", True), ("bfloat16", "cpu", False)]
)
def test_other_dtypes_and_devices_keep_their_kernels(dtype, backend, units, monkeypatch):
    model, params = model_and_params(*MODELS[0], dtype)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(processor, "has_matrix_units", lambda: units)
    assert not boxes(for_decoding(model, params))


def test_scanned_layers_keep_their_kernels():
    model, params = model_and_params(*MODELS[1])
    assert not boxes(for_decoding(model.clone(scan_layers=True), stack_layers(params)))


def test_other_models_keep_their_kernels_since_they_may_read_them_otherwise():
    layer = nn.Dense(48, param_dtype=jnp.bfloat16, name="layer_0")
    params = {"layer_0": layer.init(jax.random.key(0), jnp.ones((3, 32)))["params"]}
    assert not boxes(for_decoding(layer, params))


@pytest.mark.parametrize("adapted", [False, True])
def test_decoding_takes_them_unless_there_is_another_apply(adapted, monkeypatch):
    model, params = model_and_params(*MODELS[0])
    seen = []
    real = decoding.read_prompts

    def watched(model, apply, params, *args):
        seen.append(boxes(params))
        return real(model, apply, params, *args)

    monkeypatch.setattr(decoding, "read_prompts", watched)
    apply = (lambda params, *args, **kwargs: model.apply({"params": params}, *args, **kwargs)) if adapted else None
    generate(model, params, [[1, 2]], Greedy(), Constraints(3, None), apply=apply)
    assert seen
    assert all(bool(count) is not adapted for count in seen)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "config"), MODELS)
def test_a_cpu_without_matrix_units_writes_the_same_text(kind, config, monkeypatch):
    model, params = model_and_params(kind, config)

    def texts(units):
        monkeypatch.setattr(processor, "has_matrix_units", lambda: units)
        return [one.tokens for one in generate(model, params, [[1, 2], [3], [4, 5, 6]], Greedy(), Constraints(5, None))]

    assert texts(False) == texts(True)
    assert len(set(map(tuple, texts(False)))) > 1
