"""Attention on a CPU against JAX's own function, which other devices run: in blocks, in groups of heads, capped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.models.attention import Attention, attend, plain_attention
from hut_jax.models.dropout import Dropout
from tests.parity import check_parity

WHOLE = Dropout(0.0, deterministic=True).bind({})


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
    [(5, 4, 4, np.float32), (64, 4, 4, np.float32), (99, 6, 2, np.float32), (150, 3, 1, jnp.bfloat16)],
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
    (_, expected), its_gradients = jax.jit(partial(both))(*arrays)
    (_, changed), its_changed = jax.jit(partial(both))(*(2 * array for array in arrays))
    tolerance = 1e-5 if dtype == np.float32 else 5e-2
    check_parity([found, gradients], [expected, its_gradients], [changed, its_changed], tolerance)


def test_only_a_causal_layer_is_in_blocks():
    mask, x = causal(64), jnp.zeros((2, 64, 4))

    def scores(**options):
        layer = Attention(2, 0.0, 0.02, 0.02, jnp.float32, "xla", **options)
        params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, mask, 1.0, True))
        jaxpr = jax.make_jaxpr(lambda params: layer.apply(params, x, mask, 1.0, True)[0])(params)
        products = [
            equation.outvars[0].aval.shape for equation in jaxpr.eqns if equation.primitive.name == "dot_general"
        ]
        return [shape for shape in products if len(shape) == 4 and shape[-1] > 2]

    assert scores() == [(2, 2, 64, 64)]
    assert scores(causal=True) == [(2, 2, 32, 32), (2, 2, 32, 64)]


def test_with_dropout_the_draws_are_those_without_blocks():
    arrays, mask = drawn(64, 4, 2), causal(64)

    def run(causal, seed):
        drop = Dropout(0.5, deterministic=False, parent=None)

        def call(module):
            return attend(*arrays, mask, 1.0, module, causal=causal)

        return drop.apply({}, rngs={"dropout": jax.random.key(seed)}, method=call)

    blocks, whole, other = run(True, 0), run(False, 0), run(False, 1)
    np.testing.assert_array_equal(blocks, whole)
    assert np.abs(other - whole).max() > 0.1


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
