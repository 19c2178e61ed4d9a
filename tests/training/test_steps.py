"""The training step and the evaluation, on a problem with a known answer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hut_jax.core.products import matmul
from hut_jax.parallel.mesh import make_mesh
from hut_jax.training.config import TrainConfig
from hut_jax.training.evaluation import Evaluation
from hut_jax.training.optimizer import make_optimizer
from hut_jax.training.steps import Steps, state_shardings


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
    base = {"w": random.standard_normal((4, 3)).astype(np.float32)}
    x = random.standard_normal((rows, 4)).astype(np.float32)
    y = x @ np.asarray(base["w"]) * np.float32([1.5, 0.5, 2])
    masks = {"attention_mask": np.ones((rows, 2), bool), "weights": np.ones(rows, np.float32)}
    return base, {"a": np.zeros(3, np.float32)}, {"x": x, "y": y} | masks


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


def rated(rate, multiplier, seed=0, **given):
    """The steps of a run as commands make them, or with other rates."""
    config = TrainConfig(learning_rate=rate, warmup=2.0, decay="linear")
    rates = {"learning_rate": rate, "multipliers": {"a": multiplier}}
    return Steps(forward, loss, make_optimizer(config, 8, rates["multipliers"]), seed=seed, rates=rates | given)


def test_runs_that_differ_only_in_learning_rates_and_seed_have_the_same_programs():
    base, factors, batch = problem()

    def programs(steps):
        return [program.as_text() for program in steps.lower(steps.init(factors), base, batch)]

    own = programs(rated(0.1, 1.0))
    assert programs(rated(0.3, 0.5, seed=1)) == own
    config = TrainConfig(learning_rate=0.1, warmup=2.0, decay="linear")
    gradient, update = programs(Steps(forward, loss, make_optimizer(config, 8, {"a": 1.0})))  # the rates are constants
    assert gradient == own[0]
    assert update != own[1]


def test_the_rates_are_those_of_the_step_and_not_those_that_its_optimiser_was_made_with():
    base, factors, batch = problem()

    def trained(steps):
        state = steps.init(factors)
        for _ in range(3):
            state, _ = steps.train(state, base, [batch])
        return np.asarray(state.factors["a"])

    expected = trained(rated(0.3, 0.5))
    np.testing.assert_array_equal(trained(rated(0.1, 2.0, learning_rate=0.3, multipliers={"a": 0.5})), expected)
    config = TrainConfig(learning_rate=0.3, warmup=2.0, decay="linear")
    constant = trained(Steps(forward, loss, make_optimizer(config, 8, {"a": 0.5})))
    np.testing.assert_allclose(constant, expected, rtol=1e-5)
    for other in (rated(0.1, 0.5), rated(0.3, 2.0)):
        assert np.abs(trained(other) / expected - 1).min() > 0.01


def test_parts_of_a_batch_add_up_to_the_whole_whatever_their_sizes():
    base, factors, batch = problem()
    parts = [jax.tree.map(lambda leaf, cut=cut: leaf[cut], batch) for cut in (slice(0, 2), slice(2, 7), slice(7, 8))]
    steps = Steps(forward, loss, optax.sgd(0.1), dropout=False)
    whole, one = steps.train(steps.init(factors), base, [batch])
    summed, many = steps.train(steps.init(factors), base, parts)
    x, errors = np.asarray(batch["x"]), np.asarray(batch["x"]) @ base["w"] - batch["y"]
    gradient = (2 * errors * (x @ base["w"])).mean(axis=0) / 3
    np.testing.assert_allclose(whole.factors["a"], -0.1 * gradient, rtol=1e-4)
    assert one["loss"] == pytest.approx((errors**2).mean(), rel=1e-5)
    assert one["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    np.testing.assert_allclose(summed.factors["a"], whole.factors["a"], rtol=1e-5)
    for name in one:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-5)


def test_dropout_and_smoothing_act_in_training_alone():
    base, factors, batch = problem()
    plain = Steps(forward, loss, optax.sgd(0.0), dropout=False)
    dropped = Steps(forward, loss, optax.sgd(0.0))
    smoothed = Steps(forward, partial(loss, label_smoothing=0.25), optax.sgd(0.0), dropout=False)
    again, other = Steps(forward, loss, optax.sgd(0.0)), Steps(forward, loss, optax.sgd(0.0), seed=1)
    expected = Evaluation(forward, loss)(base, factors, [batch]).loss
    losses = []
    state = dropped.init(factors)
    for _ in range(2):
        state, metrics = dropped.train(state, base, [batch])
        losses.append(float(metrics["loss"]))
    assert len({expected, *losses}) == 3  # another mask each step
    assert float(again.train(again.init(factors), base, [batch])[1]["loss"]) == losses[0]
    assert float(other.train(other.init(factors), base, [batch])[1]["loss"]) not in (expected, *losses)
    halves = [jax.tree.map(lambda leaf: leaf[:4], batch)] * 2  # equal parts, each with a mask of its own
    one, two = (dropped.train(dropped.init(factors), base, parts)[1]["loss"] for parts in (halves[:1], halves))
    assert float(one) != float(two)
    assert float(plain.train(plain.init(factors), base, [batch])[1]["loss"]) == pytest.approx(expected)
    assert float(smoothed.train(smoothed.init(factors), base, [batch])[1]["loss"]) == pytest.approx(expected + 0.25)


def test_evaluation_weighs_batches_by_their_weight():
    base, factors, batch = problem()
    parts = [jax.tree.map(lambda leaf, cut=cut: leaf[cut], batch) for cut in (slice(0, 1), slice(1, 8))]
    evaluation = Evaluation(forward, loss)
    whole, apart = evaluation(base, factors, [batch]), evaluation(base, factors, parts)
    assert apart.loss == pytest.approx(whole.loss)
    np.testing.assert_allclose(np.concatenate(apart.outputs), whole.outputs[0], rtol=1e-5)


def test_evaluation_goes_through_place_and_gives_what_the_factors_give():
    base, factors, batch = problem()
    placed = []
    evaluation = Evaluation(forward, loss, place=lambda batch: placed.append(1) or batch)
    found = evaluation(base, {"a": np.float32([0.5, -0.5, 1])}, [batch])
    assert (placed, found.loss) == ([1], pytest.approx(0, abs=1e-10))
    assert evaluation(base, factors, [batch]).loss > 0.01


def test_the_state_lies_beside_its_factors():
    mesh = make_mesh(1, 2, 1)
    split, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("fsdp"), jax.P()))
    factors = {"a": jax.ShapeDtypeStruct((4,), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.float32)}
    lie = state_shardings(optax.adam(0.1), factors, {"a": split, "b": whole})
    moments, _ = lie.opt_state
    assert (lie.step, lie.factors) == (whole, {"a": split, "b": whole})
    assert moments.count == whole
    assert moments.mu == moments.nu == {"a": split, "b": whole}


def test_a_steps_two_programs_can_be_lowered_alone():
    base, factors, batch = problem()
    steps = Steps(forward, loss, optax.sgd(0.1), dropout=False)
    gradient, optimiser = steps.lower(steps.init(factors), base, batch)
    assert "dot_general" in gradient.as_text()
    assert "dot_general" not in optimiser.as_text()


def test_neither_program_converts_a_whole_stack_of_bf16_kernels():
    kernels = jax.ShapeDtypeStruct((6, 128, 128), jnp.bfloat16)
    factors = {"a": np.zeros(128, np.float32)}
    batch = {"x": jnp.ones((4, 128), jnp.bfloat16), "y": np.ones((4, 128), np.float32)}
    batch |= {"attention_mask": np.ones((4, 2), bool), "weights": np.ones(4, np.float32)}

    def forward(base, factors, x, *, deterministic):
        def layer(x, kernel):
            return jnp.tanh(matmul(x, kernel)) * (1 + factors["a"]).astype(x.dtype), None

        return jax.lax.scan(layer, x, base)[0].astype(jnp.float32)

    def no_rngs(apply, batch, *, deterministic, rngs=None):
        return loss(apply, batch, deterministic=deterministic)

    steps = Steps(forward, no_rngs, optax.sgd(0.1), dropout=False)
    gradient, _ = steps.lower(steps.init(factors), kernels, batch)
    evaluation = Evaluation(forward, no_rngs)._evaluate.lower(kernels, factors, batch)
    for program in (gradient, evaluation):
        assert program.compile().memory_analysis().temp_size_in_bytes < 4 * kernels.size  # that in fp32
