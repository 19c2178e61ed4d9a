"""Attention on a CPU against JAX's own function, which other devices run: in blocks, in groups of heads, capped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.models.attention import attend, plain_attention
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.dropout import Dropout
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig
from tests.parity import check_parity

WHOLE = Dropout(0.0, deterministic=True).bind({})
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
SIZES |= {"max_position_embeddings": 80}


def drawn(length, heads, key_heads, dtype=np.float32):
    """Queries, keys and values of two rows."""
    random = np.random.default_rng(0)
    shapes = [(2, length, count, 6) for count in (heads, key_heads, key_heads)]
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def causal(length):
    """The mask of two rows with padding in the second one: before its text, and after it."""
    kept = np.array([np.ones(length, bool), (np.arange(length) >= 2) & (np.arange(length) < length - 1)])
    return jnp.asarray(np.tril(np.ones((length, length), bool))[None, None] & kept[:, None, None])


def seeing(mask):
    """True for the queries that may attend to some key; the others' outputs mean nothing."""
    return np.asarray(mask.any(-1))[:, 0, :, None, None]


@pytest.mark.parametrize(
    ("length", "heads", "key_heads", "dtype"),
    [
        (5, 4, 4, np.float32),
        (64, 4, 4, np.float32),
        (99, 6, 2, np.float32),
        pytest.param(150, 3, 1, jnp.bfloat16, marks=pytest.mark.full),
    ],
)
def test_blocks_equal_jaxs_function_and_so_do_their_gradients(length, heads, key_heads, dtype, monkeypatch):
    arrays, mask = drawn(length, heads, key_heads, dtype), causal(length)
    weights = np.random.default_rng(1).normal(size=(2, length, heads, 6)) * seeing(mask)

    def both(query, key, value):
        def total(*arrays):
            y = attend(*arrays, mask, 0.7, WHOLE, causal=True).astype(jnp.float32)
            return jnp.sum(y * weights), y * (weights != 0)

        results = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(query, key, value)
        return jax.tree.map(lambda x: x.astype(jnp.float32), results)

    (_, found), gradients = jax.jit(both)(*arrays)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # A partial is another function to jit, which traces it anew.
    (_, expected), its_gradients = jax.jit(partial(both))(*arrays)
    (_, changed), its_changed = jax.jit(partial(both))(*(2 * array for array in arrays))
    tolerance = 1e-5 if dtype == np.float32 else 5e-2
    check_parity([found, gradients], [expected, its_gradients], [changed, its_changed], tolerance)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GPT2(GPT2Config(23, 64, 8, 1, 2)), [(2, 2, 32, 32), (2, 2, 32, 64)]),
        (
            Decoder(DecoderConfig("llama", 23, num_key_value_heads=1, head_dim=4, **SIZES)),
            [(2, 1, 64, 32), (2, 1, 64, 64)],
        ),
        (Roberta(RobertaConfig("roberta", vocab_size=23, **SIZES)), [(2, 2, 64, 64)]),
    ],
)
def test_causal_models_compute_scores_in_blocks_and_others_do_not(model, expected):
    ids = np.ones((2, 64), np.int32)
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    jaxpr = jax.make_jaxpr(lambda params: model.apply({"params": params}, ids, method="hidden"))(params)
    products = [equation.outvars[0].aval.shape for equation in jaxpr.eqns if equation.primitive.name == "dot_general"]
    assert [shape for shape in products if len(shape) == 4 and shape[-1] >= 32] == expected


def test_dropout_draws_for_the_weights_of_each_head_whatever_the_groups():
    (query, key, value), mask = drawn(64, 4, 2), causal(64)

    def with_heads_of_their_own(drop):
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, jnp.repeat(key, 2, axis=2))
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30))
        return jnp.einsum("bhqk,bkhd->bqhd", drop(weights), jnp.repeat(value, 2, axis=2))

    def run(method, seed):
        drop = Dropout(0.5, deterministic=False, parent=None)
        return drop.apply({}, rngs={"dropout": jax.random.key(seed)}, method=method) * seeing(mask)

    def ours(drop):
        return attend(query, key, value, mask, 1.0, drop, causal=True)

    check_parity(run(ours, 0), run(with_heads_of_their_own, 0), run(ours, 1), 1e-5)


def test_no_rows_and_no_tokens_are_no_error():
    for batch, length in ((0, 5), (2, 0)):
        query, key = jnp.zeros((batch, length, 4, 6)), jnp.zeros((batch, length, 2, 6))
        mask = jnp.ones((batch, 1, length, length), bool)
        assert attend(query, key, key, mask, 1.0, WHOLE, causal=True).shape == query.shape


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_plain_attention_equals_jaxs(dtype):
    query, key, value = np.random.default_rng(0).normal(size=(3, 2, 5, 4, 6)).astype(dtype)
    mask = np.tril(np.ones((5, 5), bool))[None, None] & (np.arange(5) != np.array([[1], [4]]))[:, None, None]

    @jax.jit
    def both(query, key, value):
        expected = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=0.7)
        found = plain_attention(query, key, value, jnp.asarray(mask), 0.7)
        return found.astype(jnp.float32), expected.astype(jnp.float32)

    found, expected = both(query, key, value)
    changed, _ = both(query, key * dtype(2), value)
    check_parity(found, expected, changed, 1e-6 if dtype == jnp.float32 else 1e-2)


def test_a_cap_bends_the_products_of_each_block():
    query, key, value = drawn(64, 4, 2)
    mask, cap = causal(64), 0.5
    found = attend(query, key, value, mask, 2.0, WHOLE, cap=cap, causal=True)
    repeated = np.repeat(np.asarray(key), 2, axis=2)
    scores = cap * np.tanh(2 * np.einsum("bqhd,bkhd->bhqk", query, repeated) / cap)
    weights = np.exp(scores) * np.asarray(mask)
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-9)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, np.repeat(np.asarray(value), 2, axis=2))
    seen = seeing(mask)
    plain = attend(query, key, value, mask, 2.0, WHOLE, causal=True)
    check_parity(found * seen, expected * seen, plain * seen, 1e-5)
