"""A model as people write it in NNX: trained under `nnx.jit`, and saved."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import hut_jax.nnx
from hut_jax import HUT, Adapter, LoRA
from hut_jax.core.any_tree import flatten_any
from hut_jax.nnx import Factors
from tests.nnx.llama import Llama

TOKENS = np.random.default_rng(0).integers(0, 24, (4, 9)).astype(np.int32)


@nnx.jit
def train(model, optimizer, tokens):
    def loss(model):
        logits = model(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    value, gradient = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, Factors))(model)
    optimizer.update(model, gradient)
    return value


@pytest.mark.full
@pytest.mark.parametrize(
    ("scanned", "transform", "rate"),
    [(True, HUT(rank=2), 0.05), (False, HUT(rank=2), 0.05), (True, LoRA(rank=2), 0.01)],
    ids=str,
)
def test_a_llama_of_nnx_layers_trains_under_nnx_jit(scanned, transform, rate):
    model = Llama(nnx.Rngs(0), scanned=scanned)
    adapter = Adapter(transform, "_proj$")
    adapted = hut_jax.nnx.adapt(model, adapter, rngs=nnx.Rngs(1))
    assert len(adapter.sites(model)) == (7 if scanned else 14)
    optimizer = nnx.Optimizer(adapted, adapter.optimizer(optax.adamw, rate, params=model), wrt=Factors)
    losses = [float(train(adapted, optimizer, TOKENS)) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    merged = jax.jit(lambda x: hut_jax.nnx.merge(adapted)(x))(TOKENS)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(adapted, TOKENS), merged, rtol=1e-4, atol=1e-4)
    assert np.abs(merged - nnx.jit(lambda m, x: m(x))(model, TOKENS)).max() > 0.1
    for path, leaf in flatten_any(nnx.state(adapted, nnx.Param)).items():
        np.testing.assert_array_equal(leaf, flatten_any(model)[path])
