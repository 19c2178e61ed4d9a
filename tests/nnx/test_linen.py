"""NNX and Linen side by side: the same adapter, the same files, and Flax's bridge both ways."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hut_jax.nnx
from hut_jax import HUT, Adapter, Bank, LoRA, UserError, fingerprint, load_adapter, save_adapter
from hut_jax.core.any_tree import flatten_any
from hut_jax.nnx import Factors
from tests.nnx.test_adapt import adapted_with_noise, noisy
from tests.nnx.zoo import AroundBridged, X, bridged

ADAPTER = Adapter(HUT(rank=2), "attention|up|down")


class Linen(nn.Module):
    """A block of a transformer."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm(name="norm")(x))
        return x + nn.Dense(4, name="down")(nn.gelu(nn.Dense(8, name="up")(x)))


class OfNNX(nnx.Module):
    """The same block."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=rngs)
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.down = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.down(nnx.gelu(self.up(x)))


@pytest.fixture(scope="module")
def pair():
    """The two models with the same parameters, and factors."""
    model = OfNNX(nnx.Rngs(0))
    params = jax.tree.map(jnp.asarray, noisy(nnx.to_pure_dict(nnx.state(model, nnx.Param)), seed=3))
    nnx.update(model, params)
    return Linen(), params, model, noisy(ADAPTER.init(jax.random.key(0), params))


def test_an_adapter_of_a_linen_model_is_loaded_into_the_nnx_model_and_back(pair, tmp_path):
    linen, params, model, factors = pair
    wanted = jax.jit(lambda f, x: ADAPTER.apply(linen, params, f, x))(factors, X)
    save_adapter(tmp_path / "linen", ADAPTER, factors, params)
    adapter, loaded = load_adapter(tmp_path / "linen", model)
    adapted = hut_jax.nnx.adapt(model, adapter, factors=loaded)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(adapted, X), wanted, rtol=1e-5, atol=1e-5)
    assert fingerprint(model) == fingerprint(params) == fingerprint(nnx.state(adapted, nnx.Param))

    save_adapter(tmp_path / "nnx", adapter, nnx.state(adapted, Factors), adapted)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "nnx" / name).read_bytes() == (tmp_path / "linen" / name).read_bytes()
    with pytest.raises(UserError, match="trained on None"):
        load_adapter(tmp_path / "nnx", nnx.merge(nnx.graphdef(model), jax.tree.map(lambda w: w + 1, nnx.state(model))))
    assert adapter.report(model) == adapter.report(params)


@pytest.mark.full
def test_a_bank_switches_an_nnx_model_and_mixes_adapters_in_a_batch(pair):
    linen, params, model, factors = pair
    bank = Bank(ADAPTER, model)
    bank["one"], bank["two"] = factors, jax.tree.map(lambda leaf: -leaf, factors)
    adapted = hut_jax.nnx.adapt(model, ADAPTER, factors=bank.off)
    traces = []

    @nnx.jit
    def run(model, x):
        traces.append(None)
        return model(x)

    outputs = []
    for name in ("one", "two", None):
        hut_jax.nnx.set_factors(adapted, bank.off if name is None else bank[name])
        outputs.append(run(adapted, X))
    assert len(traces) == 1
    np.testing.assert_array_equal(outputs[2], nnx.jit(lambda m, x: m(x))(model, X))
    rows = jax.jit(lambda s, ids, x: hut_jax.nnx.apply_rows(adapted, s, ids, x))(
        bank.stacked(), bank.ids(["two", None]), X
    )
    np.testing.assert_allclose(rows, np.stack([outputs[1][0], outputs[2][1]]), rtol=1e-5, atol=1e-5)
    del linen, params
    with pytest.raises(UserError, match="stacked on a new first axis"):
        hut_jax.nnx.apply_rows(adapted, {"up": {}}, bank.ids(["two", None]), X)


def test_a_linen_model_in_the_bridge_to_nnx_takes_the_linen_adapter():
    adapter, model = Adapter(LoRA(rank=2), "up|down"), bridged(nnx.Rngs(0))
    linen = model.to_nnx__module
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    factors = noisy(adapter.init(jax.random.key(0), params))
    adapted = hut_jax.nnx.adapt(model, adapter, factors=factors)
    wanted = linen.apply({"params": adapter.merge(params, factors), "batch_stats": stats}, X)
    np.testing.assert_allclose(adapted(X), wanted, rtol=1e-5, atol=1e-5)


def test_a_bridged_models_own_state_is_kept_and_its_base_too():
    model = AroundBridged(nnx.Rngs(0))
    adapted = adapted_with_noise(model, Adapter(HUT(rank=2), "up|down"))
    merged = hut_jax.nnx.merge(adapted)
    adapted(X), merged(X)
    for path, leaf in flatten_any(nnx.state(merged, nnx.BatchStat)).items():
        np.testing.assert_allclose(flatten_any(nnx.state(adapted, nnx.BatchStat))[path], leaf, rtol=1e-5, atol=1e-6)
        assert np.abs(leaf - flatten_any(nnx.state(model, nnx.BatchStat))[path]).max() > 1e-4
    for path, leaf in flatten_any(nnx.state(adapted, nnx.Param)).items():
        np.testing.assert_array_equal(leaf, flatten_any(model)[path])


@pytest.mark.full
def test_an_nnx_model_in_the_bridge_to_linen_runs_with_a_linen_adapter_and_an_adapted_one_as_it_is(pair):
    _, params, model, factors = pair
    linen = nnx.bridge.to_linen(OfNNX)
    adapted = hut_jax.nnx.adapt(model, ADAPTER, factors=factors)
    inside = nnx.bridge.to_linen(lambda rngs: hut_jax.nnx.adapt(OfNNX(rngs), ADAPTER, rngs=rngs))
    variables = inside.init(jax.random.key(0), X)
    assert variables["params"].keys() == params.keys()
    (collection,) = variables.keys() - {"params"}
    own = jax.tree.unflatten(jax.tree.structure(variables[collection]), jax.tree.leaves(factors))

    @jax.jit
    def run(params, factors, own):
        return ADAPTER.apply(linen, params, factors, X), inside.apply({"params": params, collection: own}, X)

    wanted = adapted(X)
    for got in run(params, factors, own):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
