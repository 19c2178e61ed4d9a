"""LoRA's own: its scaling, its dropout, and LoRA+'s rate."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from hut_jax import Adapter, LoRA, LoRAPlus, UserError
from hut_jax.config import default_config, freeze, set_transform
from hut_jax.runs.run import multipliers
from hut_jax.training.optimizer import make_optimizer
from hut_jax.transforms.base import Layer


class Model(nn.Module):
    """Two layers in a scan; dropout of its own between them, so that both draw from one rng."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, deterministic):
                return nn.Dropout(0.0, deterministic=deterministic)(nn.Dense(8, name="hidden")(x)), None

        scan = nn.scan(
            Layer,
            variable_axes={"params": 0, "adapter": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=2,
        )
        return scan(name="layers")(x, deterministic)[0]


X = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
PARAMS = {"layers": {"hidden": {"kernel": np.tile(np.eye(8, dtype=np.float32), (2, 1, 1)), "bias": np.ones((2, 8))}}}


def adapted(transform):
    """An adapter, and factors that are not zero."""
    adapter = Adapter(transform, "hidden")
    shapes = jax.eval_shape(adapter.init, jax.random.key(1), PARAMS)
    random = np.random.default_rng(1)
    return adapter, jax.tree.map(lambda leaf: np.float32(0.3 + 0.1 * random.standard_normal(leaf.shape)), shapes)


def test_the_scaling_is_alpha_over_r_or_over_its_root():
    assert LoRA(rank=4, alpha=8.0).scaling == 2
    assert LoRA(rank=4, alpha=8.0, rs=True).scaling == 4


def test_dropout_acts_in_training_alone():
    adapter, factors = adapted(LoRA(rank=2, dropout=0.5))
    plain, _ = adapted(LoRA(rank=2))

    @jax.jit
    def run(params, factors, key):
        rngs = {"dropout": key}
        out = {"plain": plain.apply(Model(), params, factors, X)}
        quiet = ({}, {"deterministic": True}, {"rngs": rngs}, {"deterministic": True, "rngs": rngs})
        out["quiet"] = [adapter.apply(Model(), params, factors, X, **given) for given in quiet]
        out["by name"] = adapter.apply(Model(), params, factors, X, deterministic=False, rngs=rngs)
        out["by place"] = adapter.apply(Model(), params, factors, X, False, rngs=rngs)
        return out

    out, other = (run(PARAMS, factors, jax.random.key(seed)) for seed in (5, 6))
    for quiet in out["quiet"]:
        np.testing.assert_array_equal(quiet, out["plain"])
    np.testing.assert_array_equal(out["by place"], out["by name"])
    again = run(PARAMS, factors, jax.random.key(5))
    np.testing.assert_array_equal(again["by name"], out["by name"])
    for one in (out["plain"], other["by name"]):
        assert np.abs(out["by name"] - one).max() > 0.01


def test_dropout_is_on_the_low_rank_path_and_keeps_its_mean():
    """Of one layer's output, over many keys; the layer itself is never dropped."""
    transform = LoRA(rank=2, alpha=2.0, dropout=0.25)
    x, factors = X[0], {"a": np.full((8, 2), 0.1, np.float32), "b": np.full((2, 8), 0.2, np.float32)}

    def dense(x, kernel, bias):
        return x @ kernel

    @jax.jit
    def paths(x, kernel, factors):
        def low_rank(key):
            return transform.forward(Layer(dense, kernel, None), x, factors, key) - x

        return jax.vmap(low_rank)(jax.random.split(jax.random.key(0), 4000))

    got = np.asarray(paths(x, np.eye(8, dtype=np.float32), factors))
    np.testing.assert_allclose(got.mean(0), x @ factors["a"] @ factors["b"], atol=0.01)
    # An entry of x that is kept is scaled up: so the paths vary as p / (1 - p) times the squares.
    expected = np.sqrt(0.25 / 0.75 * np.sum((x * 0.1 * 0.2 * 2) ** 2, axis=-1))
    np.testing.assert_allclose(got.std(0), np.broadcast_to(expected[:, None], x.shape), rtol=0.1)


def test_dropout_without_an_rng_is_refused():
    adapter, factors = adapted(LoRA(rank=2, dropout=0.5))
    with pytest.raises(UserError, match=r"the adapter has dropout.*rngs=\{\"dropout\": key\}"):
        adapter.apply(Model(), PARAMS, factors, X, deterministic=False)


def test_b_of_lora_plus_learns_faster_by_the_ratio():
    config = default_config()
    set_transform(config, "lora_plus", rank=2, ratio=8.0)
    config.model = "any"
    config.adapter.targets = ("hidden",)
    config.train.update({"learning_rate": 0.5, "warmup": 0.0, "decay": "constant", "clip": 0.0, "weight_decay": 0.0})
    run = freeze(config)
    adapter = run.adapter.make_adapter()
    assert adapter.transform == LoRAPlus(rank=2, ratio=8.0)
    optimizer = make_optimizer(run.train, 10, multipliers(run, adapter, PARAMS))
    factors = jax.tree.map(np.ones_like, adapted(adapter.transform)[1])
    updates = jax.jit(lambda factors: optimizer.update(factors, optimizer.init(factors), factors)[0])(factors)
    # Adam's first update has the size of the rate, whatever the gradient's.
    np.testing.assert_allclose(updates["layers"]["hidden"]["a"], -0.5, rtol=1e-4)
    np.testing.assert_allclose(updates["layers"]["hidden"]["b"], -4.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "LoRA: rank must be a whole number of at least 1, not 0"),
        ({"alpha": -1.0}, "LoRA: alpha must be a number of at least 0, not -1.0"),
        ({"dropout": 1.0}, "LoRA: dropout must be a number of at least 0 and below 1, not 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        LoRA(**settings)
