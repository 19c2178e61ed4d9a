"""The training step on a problem with a known answer; the loop's promises are tested through the command."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hut_jax.core.errors import UserError
from hut_jax.training.config import TrainConfig
from hut_jax.training.evaluation import Evaluation
from hut_jax.training.optimizer import make_optimizer, schedule, warmup_steps
from hut_jax.training.steps import Steps


def forward(base, factors, x, *, deterministic, rngs=None):
    y = x @ base["w"] * (1 + factors["a"])
    if deterministic:
        return y
    return y * jax.random.bernoulli(rngs["dropout"], 0.5, y.shape)


def loss(apply, batch, *, label_smoothing=0.0, **kwargs):
    errors = (apply(batch["x"], **kwargs) - batch["y"]) ** 2 + label_smoothing
    return jnp.sum(errors.mean(axis=-1) * batch["weights"]), jnp.sum(batch["weights"]), errors


def problem(rows=8, seed=0):
    random = np.random.default_rng(seed)
    base = {"w": jnp.asarray(random.standard_normal((4, 3)), jnp.float32)}
    x = random.standard_normal((rows, 4)).astype(np.float32)
    y = x @ np.asarray(base["w"]) * np.float32([1.5, 0.5, 2])
    masks = {"attention_mask": np.ones((rows, 2), bool), "weights": np.ones(rows, np.float32)}
    return base, {"a": jnp.zeros(3)}, {"x": x, "y": y} | masks


def test_it_finds_the_scales_and_leaves_the_base_alone():
    base, factors, batch = problem()
    before = np.asarray(base["w"]).tobytes()
    steps = Steps(forward, loss, optax.adam(0.05), dropout=False)
    state = steps.init(factors)
    for _ in range(300):
        state, metrics = steps.train(state, base, [batch])
    np.testing.assert_allclose(state.factors["a"], [0.5, -0.5, 1], atol=1e-2)
    assert int(state.step) == 300
    assert float(metrics["weight"]) == 8
    assert int(metrics["tokens"]) == 16
    assert np.asarray(base["w"]).tobytes() == before
    assert jax.tree.structure(state.factors) == jax.tree.structure(factors)
    sizes = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert base["w"].shape not in sizes


def test_parts_of_a_batch_add_up_to_the_whole_whatever_their_sizes():
    base, factors, batch = problem()
    parts = [jax.tree.map(lambda leaf, cut=cut: leaf[cut], batch) for cut in (slice(0, 2), slice(2, 7), slice(7, 8))]
    steps = Steps(forward, loss, optax.sgd(0.1), dropout=False)
    whole, one = steps.train(steps.init(factors), base, [batch])
    summed, many = steps.train(steps.init(factors), base, parts)
    np.testing.assert_allclose(summed.factors["a"], whole.factors["a"], rtol=1e-5)
    for name in one:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-5)


def test_dropout_and_smoothing_act_in_training_alone():
    base, factors, batch = problem()
    plain = Steps(forward, loss, optax.sgd(0.0), dropout=False)
    dropped = Steps(forward, loss, optax.sgd(0.0))
    smoothed = Steps(forward, partial(loss, label_smoothing=0.25), optax.sgd(0.0), dropout=False)
    expected = Evaluation(forward, loss)(base, factors, [batch]).loss
    losses = []
    state = dropped.init(factors)
    for _ in range(2):
        state, metrics = dropped.train(state, base, [batch])
        losses.append(float(metrics["loss"]))
    assert len({expected, *losses}) == 3  # another mask each step
    assert float(plain.train(plain.init(factors), base, [batch])[1]["loss"]) == pytest.approx(expected)
    assert float(smoothed.train(smoothed.init(factors), base, [batch])[1]["loss"]) == pytest.approx(expected + 0.25)


def test_evaluation_weighs_batches_by_their_weight():
    base, factors, batch = problem()
    parts = [jax.tree.map(lambda leaf, cut=cut: leaf[cut], batch) for cut in (slice(0, 1), slice(1, 8))]
    evaluation = Evaluation(forward, loss)
    whole, apart = evaluation(base, factors, [batch]), evaluation(base, factors, parts)
    assert apart.loss == pytest.approx(whole.loss)
    np.testing.assert_allclose(np.concatenate(apart.outputs), whole.outputs[0], rtol=1e-5)


def test_the_learning_rate_rises_and_falls():
    rate = schedule(TrainConfig(learning_rate=1.0, warmup=10.0, decay="linear"), 110)
    assert [float(rate(step)) for step in (0, 5, 10, 60, 110)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    share = schedule(TrainConfig(learning_rate=1.0, warmup=0.1, decay="cosine"), 100)
    assert [float(share(step)) for step in (10, 55, 100)] == pytest.approx([1, 0.5, 0], abs=1e-6)
    constant = schedule(TrainConfig(learning_rate=1.0, warmup=0.0, decay="constant"), 5)
    assert float(constant(3)) == 1


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"warmup is 500 steps and the run has 100; .*0.06"):
        schedule(TrainConfig(warmup=500.0), 100)


def test_a_run_that_steps_bounds_warms_up_within_it():
    assert warmup_steps(TrainConfig(warmup=500.0, steps=100), 100) == 6
    assert warmup_steps(TrainConfig(warmup=50.0, steps=100), 100) == 50


def test_the_step_is_adamws_with_a_learning_rate_multiplier_for_some_factors():
    """Against optax's AdamW, at the learning rate times the multiplier."""
    factors = {"layer": {"a": jnp.array([1.0, -2.0]), "g": jnp.array([3.0])}}
    gradients = {"layer": {"a": jnp.array([0.1, 0.2]), "g": jnp.array([-0.3])}}
    config = TrainConfig(learning_rate=0.5, warmup=0.0, decay="constant", clip=0.0, weight_decay=0.01)
    ours = make_optimizer(config, 10, {"layer": {"a": 1.0, "g": 0.1}})
    got, _ = ours.update(gradients, ours.init(factors), factors)
    for name, rate in (("a", 0.5), ("g", 0.05)):
        theirs = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)
        expected, _ = theirs.update(
            gradients["layer"][name], theirs.init(factors["layer"][name]), factors["layer"][name]
        )
        np.testing.assert_allclose(got["layer"][name], expected, rtol=1e-6)


def test_clipping_is_by_the_global_norm():
    factors = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    config = TrainConfig(learning_rate=1.0, warmup=0.0, decay="constant", clip=1.0, weight_decay=0.0)
    optimizer = make_optimizer(config, 10, {"a": 1.0, "b": 1.0})
    large = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([40.0])}
    small = jax.tree.map(lambda leaf: leaf / 50, large)
    got, expected = (optimizer.update(g, optimizer.init(factors), factors)[1] for g in (large, small))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
