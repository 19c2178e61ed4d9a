"""A head that comes apart from the table it was tied to, and parameters that train alone beside a target."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hut_jax import IA3, Adapter, DoRA, Full, LoRA, UserError, fingerprint, load_adapter, save_adapter
from hut_jax.adapters.bank import combine
from hut_jax.core.trees import flatten
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config

IDS = np.arange(8).reshape(2, 4) % 7
HEAD = {"lm_head/kernel": "token_embedding/embedding"}
MODEL = GPT2(GPT2Config(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2))
TREES = jax.eval_shape(MODEL.init, jax.random.key(0), IDS)["params"]


def drawn(tree, size=0.5):
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(size * random.standard_normal(leaf.shape), jnp.float32), tree)


PARAMS = drawn(TREES)
TABLE = PARAMS["token_embedding"]["embedding"]
ADAPTER = Adapter(LoRA(rank=2), ["^lm_head$", "query$"], also_train="^token_embedding$", untied=HEAD)


@jax.jit
def run(params, factors):
    merged = ADAPTER.merge(params, factors)
    return ADAPTER.apply(MODEL, params, factors, IDS), MODEL.apply({"params": merged}, IDS), merged


def test_the_head_has_a_kernel_of_its_own_and_apply_is_merge():
    factors = drawn(jax.eval_shape(ADAPTER.init, jax.random.key(0), PARAMS))
    applied, plain, merged = run(PARAMS, factors)
    np.testing.assert_allclose(applied, plain, rtol=1e-5, atol=1e-5)
    own = factors["lm_head"]
    np.testing.assert_allclose(merged["lm_head"]["kernel"], TABLE.T + 8 * own["a"] @ own["b"], rtol=1e-5, atol=1e-5)
    d = factors["token_embedding"]["embedding"]["d"]
    np.testing.assert_array_equal(merged["token_embedding"]["embedding"], TABLE + d)
    assert ADAPTER.count(PARAMS).trainable == sum(leaf.size for leaf in jax.tree.leaves(factors))
    assert "lm_head" in ADAPTER.report(PARAMS)
    back = ADAPTER.unmerge(merged, ADAPTER.kept(PARAMS))
    assert jax.tree.structure(back) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, back, PARAMS)


def test_zero_factors_are_the_base():
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(ADAPTER.init, jax.random.key(0), PARAMS))
    applied, plain, merged = run(PARAMS, zero)
    expected = jax.jit(lambda params: MODEL.apply({"params": params}, IDS))(PARAMS)
    # Not to the bit: the head of its own and the tied one are products of other layouts.
    np.testing.assert_allclose(applied, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(plain, expected, rtol=1e-6, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, merged, {**PARAMS, "lm_head": {"kernel": TABLE.T}})


def test_it_is_saved_and_loaded_and_knows_its_base(tmp_path):
    factors = drawn(jax.eval_shape(ADAPTER.init, jax.random.key(0), PARAMS))
    save_adapter(tmp_path, ADAPTER, factors, PARAMS)
    adapter, loaded = load_adapter(tmp_path, PARAMS)
    assert adapter == ADAPTER
    jax.tree.map(np.testing.assert_array_equal, loaded, factors)
    assert fingerprint(PARAMS) != fingerprint(run(PARAMS, factors)[2])


def test_a_head_that_is_there_already_is_the_one_that_is_adapted():
    untied = {**PARAMS, "lm_head": {"kernel": TABLE.T + 1}}
    merged = Adapter(LoRA(rank=2), "lm_head", untied=HEAD)
    factors = {"lm_head": {"a": jnp.zeros((4, 2)), "b": jnp.zeros((2, 7))}}
    np.testing.assert_array_equal(merged.merge(untied, factors)["lm_head"]["kernel"], TABLE.T + 1)
    back = merged.unmerge(merged.merge(untied, factors), merged.kept(untied))
    assert jax.tree.structure(back) == jax.tree.structure(untied)


@pytest.mark.parametrize(
    ("untied", "params", "message"),
    [
        ({"lm_head/kernel": "embedding"}, PARAMS, "untied= at 'lm_head/kernel': 'embedding' is no matrix of the para"),
        ({"lm_head/kernel": "final_norm/scale"}, PARAMS, "'final_norm/scale' is no matrix of the parameters"),
        (
            {"lm_head/kernel": 3},
            PARAMS,
            "untied= must map a kernel's path to a table's path, not 'lm_head/kernel' to 3",
        ),
        (HEAD, nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "params= is of type Linear, and untied= is for trees of dicts"),
    ],
)
def test_what_cannot_come_apart_is_refused(untied, params, message):
    with pytest.raises(UserError, match=message):
        Adapter(LoRA(rank=2), "lm_head", untied=untied).sites(params)


def test_adapters_that_differ_in_what_is_untied_do_not_combine():
    apart = Adapter(LoRA(rank=2), "token_embedding/embedding$", untied=HEAD)
    factors = {"token_embedding": {"embedding": {"a": jnp.zeros((7, 2)), "b": jnp.zeros((2, 4))}}}
    tied = dataclasses.replace(apart, untied=())
    assert combine([(apart, factors)] * 2, [1.0, 1.0], PARAMS)[0].untied == tuple(HEAD.items())
    with pytest.raises(UserError, match="a head is untied in one adapter and not in another"):
        combine([(apart, factors), (tied, factors)], [1.0, 1.0], PARAMS)


UP, BIAS = "layer_0/mlp/up", "layer_0/mlp/up/bias"


@pytest.mark.parametrize("also", [BIAS, f"^{BIAS}$"])
def test_a_bias_named_in_full_trains_alone_beside_the_factors_of_its_layer(also):
    adapter = Adapter(LoRA(rank=2), "mlp/up$", also_train=also)
    factors = drawn(jax.eval_shape(adapter.init, jax.random.key(0), PARAMS))
    assert {"/".join(path) for path in flatten(factors)} == {f"{UP}/a", f"{UP}/b", f"{BIAS}/d"}


@pytest.mark.parametrize(
    ("transform", "also"),
    [
        pytest.param(LoRA(rank=2), [BIAS], marks=pytest.mark.full),
        pytest.param(DoRA(rank=2), [f"{UP}/kernel"], marks=pytest.mark.full),
        (IA3(feedforward=""), [BIAS, f"{UP}/kernel"]),
    ],
    ids=["lora", "dora", "ia3"],
)
def test_what_trains_alone_is_transformed_as_it_has_become(transform, also):
    adapter = Adapter(transform, "mlp/up$", also_train=also)
    alone = Adapter(transform, "mlp/up$")

    @jax.jit
    def both(params, factors):
        merged = adapter.merge(params, factors)
        return adapter.apply(MODEL, params, factors, IDS), MODEL.apply({"params": merged}, IDS), merged

    factors = drawn(jax.eval_shape(adapter.init, jax.random.key(0), PARAMS))
    applied, plain, merged = both(PARAMS, factors)
    np.testing.assert_allclose(applied, plain, rtol=1e-5, atol=1e-5)
    up, own = dict(PARAMS["layer_0"]["mlp"]["up"]), dict(factors["layer_0"]["mlp"]["up"])
    for leaf in also:
        name = leaf.rpartition("/")[2]
        up[name] = up[name] + own.pop(name)["d"]
    shifted = {"layer_0": {"mlp": {"up": up}}}
    expected = alone.merge(shifted, {"layer_0": {"mlp": {"up": own}}})["layer_0"]["mlp"]["up"]
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(merged["layer_0"]["mlp"]["up"][name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_module_that_is_a_target_does_not_train_whole():
    with pytest.raises(UserError, match=r"layer_0/mlp/up is both a target and in also_train="):
        Adapter(LoRA(rank=2), "mlp/up$", also_train="mlp/up").sites(PARAMS)
    with pytest.raises(UserError, match=r"layer_0/mlp/up/bias is both a target and in also_train="):
        Adapter(Full(), "mlp/up", also_train=BIAS).sites(PARAMS)
