"""AdamW over the factors: its steps against optax's own, and its learning rate by hand."""

from itertools import pairwise

import jax
import numpy as np
import optax
import pytest

from hut_jax.core.errors import UserError
from hut_jax.training.config import TrainConfig
from hut_jax.training.optimizer import learning_rates, make_optimizer, schedule, warmup_steps


def rates(config, steps, at):
    return pytest.approx(jax.jit(jax.vmap(schedule(config, steps)))(np.array(at)).tolist(), abs=1e-6)


def test_the_learning_rate_rises_and_falls():
    linear = TrainConfig(learning_rate=2.0, warmup=10.0, decay="linear")
    assert rates(linear, 110, (0, 5, 10, 60, 110, 200)) == [0, 1, 2, 1, 0, 0]
    share = TrainConfig(learning_rate=1.0, warmup=0.1, decay="cosine")
    assert rates(share, 100, (5, 10, 55, 100)) == [0.5, 1, 0.5, 0]
    constant = TrainConfig(learning_rate=1.0, warmup=0.0, decay="constant")
    assert rates(constant, 5, (0, 3, 9)) == [1, 1, 1]


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"warmup is 500 steps and the run has 100; .*0.06"):
        schedule(TrainConfig(warmup=500.0), 100)
    with pytest.raises(UserError, match=r"warmup is 100 steps and the run has 100"):
        warmup_steps(TrainConfig(warmup=100.0), 100)
    assert warmup_steps(TrainConfig(warmup=99.0), 100) == 99
    assert warmup_steps(TrainConfig(warmup=1.0), 100) == 1
    assert warmup_steps(TrainConfig(warmup=0.29), 100) == 29


def test_a_run_that_steps_bounds_warms_up_within_it():
    assert warmup_steps(TrainConfig(warmup=500.0, steps=100), 100) == 6
    assert warmup_steps(TrainConfig(warmup=50.0, steps=100), 100) == 50


def steps_of(optimizer, gradients, factors):
    """The factors after a step with each of the gradients, compiled as one."""

    @jax.jit
    def run(factors):
        state, after = optimizer.init(factors), []
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, factors)
            factors = optax.apply_updates(factors, updates)
            after.append(factors)
        return after

    return run(factors)


FACTORS = {"layer": {"a": np.float32([1.0, -2.0]), "g": np.float32([3.0])}}
GRADIENTS = [
    {"layer": {"a": np.float32([0.1, 0.2]), "g": np.float32([-0.3])}},
    {"layer": {"a": np.float32([-0.4, 0.1]), "g": np.float32([0.2])}},
]


def test_the_step_is_adamws_with_a_learning_rate_multiplier_for_some_factors():
    """Against optax's AdamW, at the learning rate times the multiplier, for two steps of a falling rate."""
    betas = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
    config = TrainConfig(learning_rate=0.5, warmup=0.0, decay="linear", clip=0.0, weight_decay=0.1, **betas)
    ours = steps_of(make_optimizer(config, 2, {"layer": {"a": 1.0, "g": 0.1}}), GRADIENTS, FACTORS)
    for name, rate in (("a", 0.5), ("g", 0.05)):
        falling = optax.linear_schedule(rate, 0.0, 2)
        theirs = steps_of(
            optax.adamw(falling, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1),
            [gradient["layer"][name] for gradient in GRADIENTS],
            FACTORS["layer"][name],
        )
        for got, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(got["layer"][name], expected, rtol=1e-6)
            assert np.abs(got["layer"][name] / FACTORS["layer"][name] - 1).min() > 1e-4  # it was a step


@pytest.mark.parametrize(("clip", "alike"), [(1.0, True), (0.0, False)])
def test_clipping_is_by_the_global_norm_and_0_is_none(clip, alike):
    """Gradients of one direction are one gradient where both are longer than the norm."""
    config = TrainConfig(learning_rate=1.0, warmup=0.0, decay="constant", clip=clip, weight_decay=0.0, eps=1.0)
    large = {"layer": {"a": np.float32([30.0, 0.0]), "g": np.float32([40.0])}}
    optimizer = make_optimizer(config, 10, {"layer": {"a": 1.0, "g": 1.0}})
    one, two = (
        steps_of(optimizer, [{"layer": {name: leaf / by for name, leaf in large["layer"].items()}}], FACTORS)[0]
        for by in (1, 50)
    )
    for name in ("a", "g"):
        assert np.allclose(one["layer"][name], two["layer"][name], rtol=1e-6) == alike


def test_the_learning_rates_that_are_logged_are_those_of_the_steps():
    """Without a gradient, a step takes its learning rate's share of each factor: a weight decay of 1."""
    config = TrainConfig(learning_rate=0.5, warmup=2.0, decay="linear", clip=0.0, weight_decay=1.0)
    still = jax.tree.map(np.zeros_like, FACTORS)
    after = steps_of(make_optimizer(config, 6, {"layer": {"a": 1.0, "g": 1.0}}), [still] * 6, FACTORS)
    shares = [1 - float(b["layer"]["a"][0] / a["layer"]["a"][0]) for a, b in pairwise([FACTORS, *after])]
    logged = learning_rates(config, 6)
    assert [logged(step) for step in range(1, 7)] == pytest.approx(shares, abs=1e-6)
    assert shares == pytest.approx([0, 0.25, 0.5, 0.375, 0.25, 0.125], abs=1e-6)
