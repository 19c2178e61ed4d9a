"""Modules that train in full beside the factors, and the embedding to which a head is tied."""

import re
import shutil
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, Full, UserError, load_adapter, load_pretrained, save_adapter, save_pretrained
from hut_jax.config import default_config, freeze, set_transform, with_fields
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.runs.run import multipliers
from hut_jax.train import train

IDS = np.arange(12).reshape(2, 6) % 11


def noisy(tree, size=0.3):
    """Random arrays of these shapes."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(np.float32(size * random.standard_normal(leaf.shape))), tree)


@lru_cache
def model(*, tied=True):
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=tied)
    return GPT2(config), noisy(jax.eval_shape(GPT2(config).init, jax.random.key(0), IDS)["params"])


def drawn(adapter, params):
    """Random factors."""
    return noisy(jax.eval_shape(adapter.init, jax.random.key(0), params))


@pytest.mark.full
def test_named_modules_train_in_full_and_nothing_else_does():
    gpt2, params = model(tied=False)
    adapter = Adapter(HUT(rank=2), also_train=["lm_head", "final_norm"])
    factors = drawn(adapter, params)
    assert set(factors) == {"layer_0", "layer_1", "lm_head", "final_norm"}
    assert jax.tree.map(jnp.shape, factors["lm_head"]) == {"kernel": {"d": (8, 11)}}
    assert set(factors["final_norm"]) == {"scale", "bias"}

    def loss(factors):
        logits = adapter.apply(gpt2, params, factors, IDS)
        return jnp.sum(jnp.sin(logits)), logits

    @jax.jit
    def run(factors):
        merged = gpt2.apply({"params": adapter.merge(params, factors)}, IDS)
        return jax.grad(loss, has_aux=True)(factors), merged

    (gradients, got), merged = run(factors)
    assert jax.tree.structure(gradients) == jax.tree.structure(factors)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(got, merged, rtol=1e-5, atol=1e-5)
    assert "lm_head/kernel" in adapter.report(params)


@pytest.mark.full
def test_a_tied_embedding_trains_once_and_through_both_its_uses(tmp_path):
    """Its gradient is that of the one table which the plain model reads and predicts with; merged, it is tied too."""
    gpt2, params = model()
    adapter = Adapter(HUT(rank=2), also_train="token_embedding")
    factors = drawn(adapter, params)
    tables = [path for path, _ in jax.tree.leaves_with_path(factors) if "embedding" in str(path)]
    assert len(tables) == 1

    def loss(logits):
        return jnp.sum(jnp.sin(logits)), logits

    @jax.jit
    def run(factors, params):
        merged = adapter.merge(params, factors)
        ours = jax.grad(lambda own: loss(adapter.apply(gpt2, params, own, IDS)), has_aux=True)(factors)
        theirs = jax.grad(lambda merged: loss(gpt2.apply({"params": merged}, IDS)), has_aux=True)(merged)
        return merged, ours, theirs

    merged, (got, logits), (expected, plain) = run(factors, params)
    np.testing.assert_allclose(logits, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        got["token_embedding"]["embedding"]["d"], expected["token_embedding"]["embedding"], rtol=1e-4, atol=1e-5
    )

    save_pretrained(tmp_path, gpt2, merged)
    again, loaded = load_pretrained(tmp_path)
    assert again.config == gpt2.config
    assert jax.tree.structure(loaded) == jax.tree.structure(merged)
    jax.tree.map(np.testing.assert_array_equal, loaded, merged)


@pytest.mark.parametrize("pattern", ["embedding", ".", "token_emb", "lm_head", "^(?!layer|final).*"])
def test_an_embedding_is_never_trained_by_accident(pattern):
    _, params = model()
    adapter = Adapter(HUT(rank=2, shift=False), r"query$", also_train=pattern)
    if pattern == ".":
        with pytest.raises(UserError, match=r"layer_0/attention/query is both a target and in also_train="):
            adapter.sites(params)
        return
    with pytest.raises(
        UserError,
        match=rf"also_train pattern {re.escape(repr(pattern))} matches no module; .*named in full: "
        "'position_embedding', 'token_embedding'$",
    ):
        adapter.sites(params)


def test_all_linear_leaves_them_alone_and_a_pattern_that_takes_them_is_refused():
    _, params = model(tied=False)
    shifted = HUT(rank=1, shift=False)
    paths = [site.path for site in Adapter(shifted, "all-linear", also_train="lm_head").sites(params)]
    assert ("lm_head",) not in paths
    assert ("lm_head", "kernel") in paths
    assert len(paths) == len(set(paths)) == 13
    everything = Adapter(Full(), also_train="lm_head").sites(params)
    assert [site.path for site in everything if site.also] == [("lm_head", "kernel")]
    assert len(everything) == len(jax.tree.leaves(params))
    with pytest.raises(UserError, match=r"lm_head is both a target and in also_train=\['lm_head'\]"):
        Adapter(shifted, "lm_head|query", also_train="lm_head").sites(params)
    with pytest.raises(UserError, match=r"lm_head/kernel is both a target and in also_train="):
        Adapter(Full(), "head", also_train="lm_head").sites(params)


def test_they_are_saved_and_loaded_with_the_factors(tmp_path):
    _, params = model(tied=False)
    adapter = Adapter(HUT(rank=2), also_train=("lm_head", "final_norm"))
    factors = drawn(adapter, params)
    save_adapter(tmp_path, adapter, factors)
    again, loaded = load_adapter(tmp_path, params)
    assert again == adapter
    jax.tree.map(np.testing.assert_array_equal, loaded, factors)


def test_they_have_a_rate_of_their_own():
    given = default_config()
    given.model = "any"
    set_transform(given, "hut", rank=2)
    given.adapter.also_train = ("lm_head",)
    _, params = model(tied=False)
    config = freeze(given)
    assert config.train.learning_rate == HUT.learning_rate
    assert config.train.also_train_learning_rate == Full.learning_rate
    config = with_fields(config, {"train.also_train_learning_rate": 0.02 * config.train.learning_rate})
    tree = multipliers(config, config.adapter.make_adapter(), params)
    assert tree["lm_head"]["kernel"] == {"d": pytest.approx(0.02)}
    assert tree["layer_0"]["attention"]["query"] == {"a": 1, "b": 1, "g": 0.1, "s": 0.1}


@pytest.mark.full
def test_a_run_trains_them_and_goes_on_with_them(small_config, tmp_path):
    small_config.adapter.also_train = ("final_norm", "token_embedding")
    result = train(freeze(small_config), tmp_path / "run")
    _, factors = load_adapter(tmp_path / "run" / "adapter")
    for leaf in (factors["token_embedding"]["embedding"]["d"], factors["final_norm"]["scale"]["d"]):
        assert np.abs(leaf).max() > 0
    assert result["trainable"] == sum(leaf.size for leaf in jax.tree.leaves(factors))


@pytest.mark.full
def test_a_run_that_was_stopped_goes_on_with_them(small_config, tmp_path):
    small_config.adapter.also_train = ("final_norm", "token_embedding")
    small_config.train.update({"steps": 6, "decay": "constant"})
    small_config.checkpoint.every = 2
    for name in ("whole", "broken"):
        train(freeze(small_config), tmp_path / name)
    # The last checkpoint goes, and the run goes on from the one before.
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "step_6")
    (tmp_path / "broken" / "result.json").unlink()
    train(freeze(small_config), tmp_path / "broken")
    one, two = (load_adapter(tmp_path / name / "adapter")[1] for name in ("whole", "broken"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
