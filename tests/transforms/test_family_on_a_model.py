"""What every transformation promises within a model: its layers scanned, recomputed, of several axes.

In the quick tier one or two of the transformations stand for all.
"""

from functools import lru_cache, partial
from operator import itemgetter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import Adapter, UserError, combine, load_adapter, save_adapter
from hut_jax.adapters.files import CONFIG_FILE, WEIGHTS_FILE
from hut_jax.transforms import DoRA, Full, HiRA, LoHa, LoRA
from tests.transforms import samples

SAMPLES = {name: one for name, one in samples.SAMPLES.items() if name != "lora-rs"}  # in a model it runs lora's code
WHOLE_LEAVES = {name for name, one in SAMPLES.items() if one.whole_leaves}

each = pytest.mark.parametrize("name", SAMPLES)


def each_with_quick(*quick):
    """These samples in the quick tier, the others in the full one."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in quick else pytest.mark.full) for name in SAMPLES]
    )


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


class Block(nn.Module):
    """A norm, and every kind of dense kernel: a matrix, several output axes, several input axes."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm(name="norm")(x)
        y = nn.Dense(12, name="up")(y)
        y = nn.DenseGeneral((3, 4), name="split")(nn.tanh(y))
        return x + nn.DenseGeneral(8, axis=(-2, -1), name="join")(y), None


class Scanned(nn.Module):
    """Two of them, recomputed in the backward pass, as one scan."""

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            nn.remat(Block), variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True}, length=2
        )
        return scan(name="layers")(x, None)[0]


MODEL = Scanned()
plain = jax.jit(lambda params, x: MODEL.apply({"params": params}, x))
block = jax.jit(lambda params, x: Block().apply({"params": params}, x)[0])


def noisy(tree, size, seed=7):
    """Random arrays of numpy of these shapes, around 1 for scales."""
    random = np.random.default_rng(seed)
    return jax.tree.map_with_path(
        lambda path, leaf: np.float32(("scale" in str(path[-1:])) + size * random.standard_normal(leaf.shape)), tree
    )


@lru_cache
def parameters():
    x = np.random.default_rng(7).standard_normal((4, 5, 8)).astype(np.float32)
    return x, noisy(jax.eval_shape(MODEL.init, jax.random.key(1), x)["params"], 0.35)


@lru_cache
def adapted(name):
    """An adapter with random factors, on the scanned model."""
    adapter = Adapter(SAMPLES[name], "all-linear")
    return adapter, noisy(jax.eval_shape(adapter.init, jax.random.key(2), parameters()[1]), 0.3)


@lru_cache
def both_ways(name):
    """Loss, outputs, merged parameters and gradients of two factor sets, through the interceptor and through merge."""
    x, params = parameters()
    adapter, factors = adapted(name)

    def through_apply(factors, params):
        y = adapter.apply(MODEL, params, factors, x)
        return jnp.mean(jnp.log1p(y**2)), (y, None)  # never flat: where tanh is, its slope is all rounding

    def through_merge(factors, params):
        merged = adapter.merge(params, factors)
        y = MODEL.apply({"params": merged}, x)
        return jnp.mean(jnp.log1p(y**2)), (y, merged)

    @jax.jit
    def run(two, params):
        gradients = (jax.value_and_grad(way, has_aux=True) for way in (through_apply, through_merge))
        return [jax.vmap(gradient, in_axes=(0, None))(two, params) for gradient in gradients]

    return run(jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), factors), params)


def close(got, expected, rtol, atol):
    """Equal up to rounding; `atol` is relative to the largest value."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol * np.abs(b).max()), got, expected)


@each_with_quick("hut")
def test_a_scan_of_recomputed_layers_is_its_merged_layers_one_by_one(name):
    x, params = parameters()
    ((_, (got, _)), _), ((_, (whole, merged)), _) = both_ways(name)
    close(got, whole, 1e-5, 1e-5)
    for which in (0, 1):
        expected = x
        for layer in range(2):
            expected = block(jax.tree.map(itemgetter((which, layer)), merged)["layers"], expected)
        close(got[which], expected, 1e-5, 1e-5)
        assert np.abs(got[which] - plain(params, x)).max() > 0.05


@each_with_quick("hut", "dora")
def test_gradients_and_vmap_through_the_interceptor_are_those_through_merge(name):
    ((loss, _), got), ((expected_loss, _), expected) = both_ways(name)
    assert jax.tree.structure(got) == jax.tree.structure(adapted(name)[1])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(got))
    close((loss, got), (expected_loss, expected), 1e-3, 1e-4)


@each_with_quick("hut")
def test_a_bf16_base_stays_bf16_and_close(name):
    x, params = parameters()
    adapter, factors = adapted(name)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    @jax.jit
    def run(half, params, factors, x):
        got = adapter.apply(MODEL, half, factors, x.astype(jnp.bfloat16))
        return adapter.merge(half, factors), got, MODEL.apply({"params": adapter.merge(params, factors)}, x)

    merged, got, exact = run(half, params, factors, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    assert got.dtype == jnp.bfloat16
    close(np.asarray(got, np.float32), exact, 0, 0.03)
    assert bits(merged) != bits(half)
    assert bits(adapter.unmerge(merged, adapter.kept(half))) == bits(half)


@each_with_quick("hut", "dora")
def test_unmerge_gives_the_base_to_the_bit(name):
    _, params = parameters()
    adapter, _ = adapted(name)
    _, ((_, (_, merged)), _) = both_ways(name)
    merged = jax.tree.map(itemgetter(0), jax.tree.map(np.asarray, merged))
    assert bits(merged) != bits(params)
    assert bits(adapter.unmerge(merged, adapter.kept(params))) == bits(adapter.unmerge(merged, params)) == bits(params)


@each_with_quick("layernorm")
def test_merging_what_is_not_finite_is_refused(name):
    adapter, factors = adapted(name)
    factors = jax.tree.map(np.array, factors)
    jax.tree.leaves(factors)[-1].flat[0] = np.nan
    params = jax.tree.map(jnp.asarray, parameters()[1])
    with pytest.raises(UserError, match=r"the merged layers/\S+ has values that are not finite"):
        adapter.merge(params, factors)


@each
def test_saving_what_was_loaded_writes_the_same_bytes(name, tmp_path):
    adapter, factors = adapted(name)
    save_adapter(tmp_path / "one", adapter, factors, base_name="base")
    again, loaded = load_adapter(tmp_path / "one")
    assert again == adapter
    save_adapter(tmp_path / "two", again, loaded, base_name="base")
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    _, stacked = load_adapter(tmp_path / "one", parameters()[1])
    assert bits(stacked) == bits(factors)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in WHOLE_LEAVES])
def test_each_row_of_a_batch_may_have_its_own_factors(name):
    x, params = parameters()
    adapter, factors = adapted(name)
    sets = jax.tree.map(lambda leaf: np.stack([leaf, -0.5 * leaf, 0 * leaf]), factors)
    ids = np.array([2, 0, 1, 0])

    @jax.jit
    def run(sets, params):
        alone = jax.vmap(partial(adapter.apply, MODEL), in_axes=(None, 0, None))(params, sets, x)
        return adapter.apply(MODEL, params, sets, x, adapter_ids=ids), alone

    got, alone = run(sets, params)
    for row, chosen in enumerate(ids):
        np.testing.assert_allclose(got[row], alone[chosen, row], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[0], plain(params, x)[0], rtol=1e-5, atol=1e-5)


def test_whole_leaves_are_those_that_the_transformation_takes():
    _, params = parameters()
    paths = {name: {site.path[1:] for site in adapted(name)[0].sites(params)} for name in WHOLE_LEAVES}
    norm = {("norm", "scale"), ("norm", "bias")}
    layers = {(layer, leaf) for layer in ("up", "split", "join") for leaf in ("kernel", "bias")}
    assert paths["layernorm"] == norm
    assert paths["full"] == norm | layers
    assert paths["bitfit"] == {path for path in norm | layers if path[1] == "bias"}


@pytest.mark.full
@each
def test_adapters_of_a_model_combine_by_weight_or_are_refused(name):
    """For additive kernels the differences add up, for HiRA the low-rank matrices do, and else the deviations."""
    if name == "hut-product":  # in part the one and in part the other: tests/transforms/test_hut.py
        return
    _, params = parameters()
    adapter, one = adapted(name)
    two = noisy(one, 0.2, seed=8)
    weights = [0.7, -0.4]
    if isinstance(adapter.transform, DoRA | LoHa):
        with pytest.raises(UserError, match=r"factors do not combine: .*merge"):
            combine([(adapter, one), (adapter, two)], weights, params)
        return
    joint, factors = combine([(adapter, one), (adapter, two)], weights, params)
    got = jax.jit(joint.merge)(params, factors)
    merge = jax.jit(adapter.merge)
    if isinstance(adapter.transform, LoRA | HiRA | Full):
        assert joint.transform == adapter.transform or joint.transform.rank == 2 * adapter.transform.rank
        expected = jax.tree.map(
            lambda w, a, b: w + weights[0] * (np.asarray(a) - w) + weights[1] * (np.asarray(b) - w),
            params,
            merge(params, one),
            merge(params, two),
        )
    else:
        assert joint == adapter
        expected = merge(params, jax.tree.map(lambda a, b: np.float32(weights[0] * a + weights[1] * b), one, two))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, expected)
