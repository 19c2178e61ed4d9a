"""LoRA's own: its scaling, its dropout, and LoRA+'s rate."""

import flax.linen as nn
import jax
import jax.numpy as jnp
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


X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 8)), jnp.float32)
PARAMS = Model().init(jax.random.key(0), X)["params"]


def adapted(transform):
    adapter = Adapter(transform, "hidden")
    factors = jax.tree.map(lambda leaf: leaf + 0.3, adapter.init(jax.random.key(1), PARAMS))

    @jax.jit
    def run(key):
        return adapter.apply(Model(), PARAMS, factors, X, deterministic=False, rngs={"dropout": key})

    return adapter, factors, run


def test_the_scaling_is_alpha_over_r_or_over_its_root():
    assert LoRA(rank=4, alpha=8.0).scaling == 2
    assert LoRA(rank=4, alpha=8.0, rs=True).scaling == 4


def test_dropout_acts_in_training_alone():
    adapter, factors, run = adapted(LoRA(rank=2, dropout=0.5))
    plain, plain_factors, _ = adapted(LoRA(rank=2))
    expected = plain.apply(Model(), PARAMS, plain_factors, X)
    key = jax.random.key(5)
    for quiet in (
        {},
        {"deterministic": True},
        {"rngs": {"dropout": key}},
        {"deterministic": True, "rngs": {"dropout": key}},
    ):
        np.testing.assert_array_equal(adapter.apply(Model(), PARAMS, factors, X, **quiet), expected)
    np.testing.assert_array_equal(run(key), run(key))
    assert jnp.abs(run(key) - run(jax.random.key(6))).max() > 0.01
    np.testing.assert_array_equal(
        run(key), jax.jit(lambda: adapter.apply(Model(), PARAMS, factors, X, False, rngs={"dropout": key}))()
    )


def test_dropout_is_on_the_low_rank_path_and_keeps_its_mean():
    """Of one layer's output, over many keys; the layer itself is never dropped."""
    transform = LoRA(rank=2, alpha=2.0, dropout=0.25)
    kernel, x = jnp.eye(8), X[0]
    factors = {"a": jnp.full((8, 2), 0.1), "b": jnp.full((2, 8), 0.2)}

    def dense(x, kernel, bias):
        return x @ kernel

    def low_rank(key):
        return transform.forward(Layer(dense, kernel, None), x, factors, key) - x

    paths = jax.jit(jax.vmap(low_rank))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(paths.mean(0), x @ factors["a"] @ factors["b"], atol=0.01)
    # An entry of x that is kept is scaled up: so the paths vary as p / (1 - p) times the squares.
    expected = jnp.sqrt(0.25 / 0.75 * jnp.sum((x * 0.1 * 0.2 * 2) ** 2, axis=-1))
    np.testing.assert_allclose(paths.std(0), jnp.broadcast_to(expected[:, None], x.shape), rtol=0.1)


def test_dropout_without_an_rng_is_refused():
    adapter, factors, _ = adapted(LoRA(rank=2, dropout=0.5))
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
    factors = adapter.init(jax.random.key(0), PARAMS)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, factors), optimizer.init(factors), factors)
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
