import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.errors import UserError
from hut_jax.models.gpt2 import GPT2, GPT2Config
from hut_jax.models.layers import check_attention, recomputed
from hut_jax.models.pretrained import init_params
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig

GPT2_CONFIG = GPT2Config(23, 12, 16, 2, 2)
ROBERTA_CONFIG = RobertaConfig(
    model_type="roberta",
    head="mlm",
    vocab_size=23,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """JAX says that it runs on a GPU, and cuDNN's attention is XLA's; returns how often it was asked for."""
    plain, asked = jax.nn.dot_product_attention, []

    def attention(*args, implementation=None, **kwargs):
        assert implementation is None or isinstance(kwargs["scale"], float)
        asked.append(implementation)
        return plain(*args, **kwargs)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    return asked


@pytest.mark.parametrize(("model", "config"), [(GPT2, GPT2_CONFIG), (Roberta, ROBERTA_CONFIG)])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_cudnn_is_given_what_xla_is_and_drops_no_weights(model, config, scan_layers, as_on_a_gpu):
    ids = jax.random.randint(jax.random.key(0), (3, 6), 4, 23)
    mask = jnp.arange(6) < jnp.array([[6], [4], [1]])
    plain, fused = (model(config, jnp.bfloat16, "none", scan_layers, attention) for attention in ("xla", "cudnn"))
    params = init_params(plain, jax.random.key(1))
    expected = plain.apply({"params": params}, ids, mask)
    as_on_a_gpu.clear()
    np.testing.assert_allclose(fused.apply({"params": params}, ids, mask), expected, atol=0.01)
    assert set(as_on_a_gpu) == {"cudnn"}
    as_on_a_gpu.clear()
    fused.apply({"params": params}, ids, mask, deterministic=False, rngs={"dropout": jax.random.key(2)})
    assert set(as_on_a_gpu) == {"cudnn"}


def test_with_a_cache_attention_is_xlas(as_on_a_gpu):
    model = GPT2(GPT2_CONFIG, jnp.bfloat16, attention="cudnn")
    params = init_params(model, jax.random.key(1))
    as_on_a_gpu.clear()
    cache = model.apply({"params": params}, 2, 4, method="init_cache")
    model.apply({"params": params}, jnp.ones((2, 4), int), cache=cache)
    assert as_on_a_gpu == [None, None]


def test_cudnn_is_refused_where_it_cannot_be(monkeypatch):
    with pytest.raises(UserError, match="runs on NVIDIA GPUs, and JAX runs on cpu here; 'xla' has no such limits"):
        check_attention("cudnn", jnp.bfloat16, 64)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    check_attention("cudnn", jnp.bfloat16, 64)
    with pytest.raises(UserError, match="computes in bfloat16, and the model in float32"):
        check_attention("cudnn", jnp.float32, 64)
    for width in (12, 136):
        with pytest.raises(UserError, match=f"and the model's have {width}"):
            check_attention("cudnn", jnp.bfloat16, width)


def test_wrong_names_are_told_the_right_ones():
    with pytest.raises(UserError, match="attention is 'cuddn'; did you mean 'cudnn'"):
        check_attention("cuddn", jnp.bfloat16, 64)
    with pytest.raises(UserError, match="remat is 'everything'; valid: 'dots', 'full', 'none'"):
        recomputed(object, "everything", deterministic=1, scanned=False)
