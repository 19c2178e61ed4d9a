"""Models whose parameters' names hold a '/', as Flax's own `WeightNorm` makes them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, Bank, Full, LoRA, UserError, combine, fingerprint, load_adapter, save_adapter
from hut_jax.adapters.sharding import factor_specs
from hut_jax.parallel.mesh import make_mesh, param_specs, shardings
from hut_jax.training.checkpoint import Checkpoints

X = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
SCALE = ("WeightNorm_0", "normed/kernel/scale")


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(x)
        x = nn.WeightNorm(nn.Dense(6, name="normed"))(nn.relu(x))
        return nn.Dense(2, name="last")(x)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(Model().init, jax.random.key(0), X)["params"]
    assert SCALE[1] in shapes[SCALE[0]]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(np.float32(random.standard_normal(leaf.shape))), shapes)


def moved(adapter, params):
    """Factors that are not zero."""
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    return jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, 0.1, np.float32)), shapes)


def same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def zeros(factors):
    return jax.tree.map(lambda leaf: np.zeros_like(np.asarray(leaf)), factors)


ADAPTERS = {
    "a layer beside it": Adapter(LoRA(rank=2), "last"),
    "all layers": Adapter(HUT(rank=2), "all-linear"),
    "trained in full": Adapter(Full(), "kernel"),
    "trained beside": Adapter(HUT(rank=2), "first", also_train="WeightNorm"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_merge_and_unmerge_rebuild_the_tree(params, name):
    adapter = ADAPTERS[name]
    factors = moved(adapter, params)
    merge = jax.jit(adapter.merge)
    merged = merge(params, factors)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    changed = adapter.leaves(params)
    assert (SCALE in changed) == name.startswith("trained")
    assert jax.eval_shape(lambda own: adapter.apply(Model(), params, own, X), factors).shape == (3, 2)
    same(adapter.unmerge(merged, adapter.kept(params)), params)
    same(merge(params, zeros(factors)), params)


@pytest.mark.parametrize("name", ADAPTERS)
def test_saving_and_loading_rebuild_the_factors(params, name, tmp_path):
    adapter = ADAPTERS[name]
    factors = moved(adapter, params)
    save_adapter(tmp_path, adapter, factors, params)
    loaded, read = load_adapter(tmp_path, params)
    assert loaded == adapter
    same(read, factors)


def test_apply_equals_merge_where_the_norm_itself_trains(params):
    adapter = ADAPTERS["trained beside"]
    factors = moved(adapter, params)

    @jax.jit
    def run(factors):
        plain = Model().apply({"params": adapter.merge(params, factors)}, X)
        return adapter.apply(Model(), params, factors, X), plain

    adapted, merged = run(factors)
    np.testing.assert_allclose(adapted, merged, rtol=1e-5)
    assert not np.allclose(run(factors | {SCALE[0]: zeros(factors[SCALE[0]])})[0], merged, rtol=1e-2)


def test_banks_meshes_and_checkpoints_rebuild_the_factors(params, tmp_path):
    adapter = ADAPTERS["trained beside"]
    factors = moved(adapter, params)
    bank = Bank(adapter, params)
    bank["one"] = factors
    same(jax.tree.map(lambda leaf: np.asarray(leaf)[1], bank.stacked()), factors)
    full = ADAPTERS["trained in full"]
    joint, combined = combine([(full, moved(full, params))] * 2, [0.5, 0.5], params)
    joint.check(params, combined)

    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    specs = param_specs(params, None, mesh)
    assert jax.tree.structure(shardings(mesh, specs)) == jax.tree.structure(params)
    where = shardings(mesh, factor_specs(adapter.sites(params), specs))
    assert jax.tree.structure(where) == jax.tree.structure(factors)

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, factors, {})
    checkpoints.wait()
    restored = checkpoints.restore_newest(jax.tree.map(jnp.asarray, zeros(factors)))
    checkpoints.close()
    assert restored is not None
    same(restored[1], factors)


def test_messages_show_the_path(params):
    adapter = ADAPTERS["trained beside"]
    factors = moved(adapter, params)
    with pytest.raises(UserError, match="factor WeightNorm_0/normed/kernel/scale/d is missing"):
        adapter.check(params, {"first": factors["first"]})


def test_names_like_an_escape_are_kept(tmp_path):
    dense = {"kernel": np.ones((4, 4), np.float32), "bias": np.ones(4, np.float32)}
    params = {"a~1b": {"c": dense}, "a/b": {"c": dense}, "a": {"b": {"c": jax.tree.map(np.negative, dense)}}}
    adapter = Adapter(HUT(rank=2), "all-linear")
    factors = moved(adapter, params)
    save_adapter(tmp_path, adapter, factors, params)
    same(load_adapter(tmp_path, params)[1], factors)
    assert fingerprint(params) == fingerprint(dict(reversed(params.items())))
