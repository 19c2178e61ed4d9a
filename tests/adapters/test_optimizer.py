"""An adapter's optimiser: any maker of optax's, with each factor at its own multiple of the learning rate."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from flax.training.train_state import TrainState

from hut_jax import HUT, Adapter, Full, LoRAPlus, UserError
from hut_jax.adapters.optimizer import scale_by_multipliers
from hut_jax.training.config import TrainConfig
from hut_jax.training.optimizer import make_optimizer

DENSE = {"kernel": np.ones((4, 4), np.float32), "bias": np.zeros(4, np.float32)}
PARAMS = {"body": {"up": DENSE}, "head": DENSE}
ADAPTER = Adapter(HUT(rank=2), "up$")
WITH_HEAD = Adapter(HUT(rank=2), "up$", also_train="head")
RATE = 0.5


def drawn(adapter=ADAPTER, seed=0):
    """Random numbers in the shape of the factors."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), PARAMS)
    return jax.tree.map(lambda leaf: np.float32(random.standard_normal(leaf.shape)), shapes)


FACTORS = drawn()
GRADIENTS = [drawn(seed=1), drawn(seed=2), drawn(seed=3)]


def steps_of(tx, factors=FACTORS, gradients=GRADIENTS):
    """The factors after a step with each of the gradients, compiled as one."""

    @jax.jit
    def run(factors):
        state = tx.init(factors)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, factors)
            factors = optax.apply_updates(factors, updates)
        return factors

    return run(factors)


def own(tree):
    """The factors of the one adapted layer."""
    return tree["body"]["up"]


def test_a_step_is_that_of_the_training_command_and_not_plain_adamws():
    """The control: plain AdamW trains the low-rank matrices alike, but scale and shift at ten times the rate."""
    config = TrainConfig(learning_rate=RATE, warmup=0.0, decay="linear", clip=0.0, weight_decay=0.1)
    multipliers = ADAPTER.learning_rate_multipliers(PARAMS)
    falling, adamw = optax.linear_schedule(RATE, 0.0, 3), {"b1": config.beta1, "b2": config.beta2, "eps": config.eps}
    ours = own(steps_of(ADAPTER.optimizer(optax.adamw, falling, params=PARAMS, weight_decay=0.1, **adamw)))
    command = own(steps_of(make_optimizer(config, 3, multipliers)))
    plain = own(steps_of(optax.adamw(falling, weight_decay=0.1, **adamw)))
    for name in "abgs":
        np.testing.assert_allclose(ours[name], command[name], rtol=1e-6, atol=1e-7)
    for name in "ab":
        np.testing.assert_array_equal(ours[name], plain[name])
    for name in "gs":
        moved, too_far = (np.abs(tree[name] - own(FACTORS)[name]).max() for tree in (ours, plain))
        assert moved < 0.2 * too_far


MAKERS = {
    "adamw": partial(optax.adamw, weight_decay=0.1),
    "sgd with momentum": partial(optax.sgd, momentum=0.9, nesterov=True),
    "lion": partial(optax.lion, weight_decay=0.1),
    "adafactor": optax.adafactor,
    "lamb": optax.lamb,
    "a schedule": lambda rate: optax.adamw(optax.linear_schedule(rate, 0.0, 3)),
    "a chain": lambda rate: optax.chain(optax.clip(0.5), optax.rmsprop(rate)),
    "injected hyperparameters": optax.inject_hyperparams(optax.adamw),
    "several small steps": lambda rate: optax.MultiSteps(optax.adam(rate), 2),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_each_factor_trains_as_by_its_own_optimiser_at_its_own_learning_rate(maker):
    """A factor alone, by the maker itself at the learning rate times the multiplier, weight decay included."""
    ours = own(steps_of(ADAPTER.optimizer(maker, RATE, params=PARAMS)))
    for name, rate in (("a", RATE), ("g", 0.1 * RATE)):
        alone = steps_of(maker(rate), own(FACTORS)[name], [own(gradient)[name] for gradient in GRADIENTS])
        np.testing.assert_allclose(ours[name], alone, rtol=1e-5, atol=1e-6)
        assert np.abs(alone - own(FACTORS)[name]).max() > 1e-3  # it was a step


@pytest.mark.parametrize(
    ("maker", "named"),
    [
        (optax.contrib.schedule_free_adamw, r"schedule_free_adamw \(by its ScheduleFreeState\)"),
        (lambda rate: optax.chain(optax.clip(1.0), optax.contrib.madgrad(rate)), r"<lambda> \(by its MadgradState\)"),
        (lambda rate: optax.contrib.mechanize(optax.adam(rate)), "MechanicState"),
        (lambda rate: optax.contrib.sam(optax.sgd(rate), optax.sgd(1.0)), "SAMState"),
        (optax.contrib.momo, "MomoState"),
        (optax.contrib.cocob, "COCOBState"),
        (optax.contrib.dadapt_adamw, "DAdaptAdamWState"),
        (optax.lbfgs, "ScaleByZoomLinesearchState"),
        (partial(optax.fromage, min_norm=1e-3), "fromage"),
        (optax.polyak_sgd, "polyak_sgd"),
    ],
)
def test_an_optimiser_whose_updates_are_not_proportional_to_the_learning_rate_is_refused(maker, named):
    with pytest.raises(UserError, match=f"updates of .*{named}.* are not proportional .*docs/method.md"):
        ADAPTER.optimizer(maker, RATE, params=PARAMS).init(FACTORS)


def test_one_optimiser_for_each_multiplier_serves_those_that_cannot_be_scaled():
    """As docs/method.md has it. The control: scaled updates would be other ones."""
    multipliers = ADAPTER.learning_rate_multipliers(PARAMS)

    def parted(maker):
        return optax.partition({m: maker(m * RATE) for m in set(jax.tree.leaves(multipliers))}, multipliers)

    maker = optax.contrib.schedule_free_sgd
    alone = steps_of(maker(0.1 * RATE), own(FACTORS)["g"], [own(gradient)["g"] for gradient in GRADIENTS])
    np.testing.assert_allclose(own(steps_of(parted(maker)))["g"], alone, rtol=1e-5)
    scaled = own(steps_of(optax.chain(maker(RATE), scale_by_multipliers(multipliers))))
    assert np.abs(scaled["g"] - alone).max() > 1e-3

    adamw = own(steps_of(parted(optax.adamw)))
    ours = own(steps_of(ADAPTER.optimizer(optax.adamw, RATE, params=PARAMS)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), ours, adamw)


def test_the_state_is_the_makers_own_and_its_injected_learning_rate_can_be_changed():
    plain, ours = optax.adamw(RATE), ADAPTER.optimizer(optax.adamw, RATE, params=PARAMS)
    assert jax.tree.structure(jax.eval_shape(ours.init, FACTORS)) == jax.tree.structure(
        jax.eval_shape(plain.init, FACTORS)
    )
    injected = ADAPTER.optimizer(optax.inject_hyperparams(optax.sgd), RATE, params=PARAMS)

    @jax.jit
    def step(rate):
        state = injected.init(FACTORS)
        state.hyperparams["learning_rate"] = rate
        return injected.update(FACTORS, state, FACTORS)[0]

    for rate in (1.0, 2.0):
        updates = own(step(jnp.float32(rate)))
        np.testing.assert_allclose(updates["a"], -rate * own(FACTORS)["a"], rtol=1e-6)
        np.testing.assert_allclose(updates["s"], -0.1 * rate * own(FACTORS)["s"], rtol=1e-6)


def test_what_else_a_step_is_given_reaches_the_maker():
    def by_the_loss(rate):
        def update(updates, state, params, *, value):
            return jax.tree.map(lambda leaf: -rate * value * leaf, updates), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    tx = ADAPTER.optimizer(by_the_loss, RATE, params=PARAMS)
    updates, _ = tx.update(FACTORS, tx.init(FACTORS), FACTORS, value=3.0)
    np.testing.assert_allclose(own(updates)["a"], -3 * RATE * own(FACTORS)["a"], rtol=1e-6)


def test_a_train_state_frozen_trees_and_stacked_factors_step_as_plain_trees_do():
    tx = ADAPTER.optimizer(optax.adamw, RATE, params=freeze(PARAMS))
    plain = own(steps_of(tx))

    @jax.jit
    def by_train_state(factors):
        state = TrainState.create(apply_fn=None, params=factors, tx=tx)
        for gradient in GRADIENTS:
            state = state.apply_gradients(grads=gradient)
        return state.params

    frozen = steps_of(tx, freeze(FACTORS), list(map(freeze, GRADIENTS)))
    stacked = steps_of(tx, *jax.tree.map(lambda leaf: np.stack([leaf, leaf]), (FACTORS, GRADIENTS)))
    for other in (by_train_state(FACTORS), frozen.unfreeze(), jax.tree.map(lambda leaf: leaf[1], stacked)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), own(other), plain)


def test_modules_that_train_in_full_have_a_multiplier_of_their_own():
    tree = WITH_HEAD.learning_rate_multipliers(PARAMS)
    assert own(tree) == {"a": 1.0, "b": 1.0, "g": 0.1, "s": 0.1}
    # Without one, they train at full fine-tuning's default learning rate where the factors train at HUT's.
    assert tree["head"]["kernel"]["d"] * HUT.learning_rate == pytest.approx(Full.learning_rate)
    assert Adapter(Full(), "up", also_train="head").learning_rate_multipliers(PARAMS)["head"]["bias"]["d"] == 1.0
    assert own(Adapter(LoRAPlus(ratio=8.0), "up").learning_rate_multipliers(PARAMS)) == {"a": 1.0, "b": 8.0}

    factors = drawn(WITH_HEAD)
    for given in (0.0, 0.25, np.float32(2.0)):
        after = steps_of(
            WITH_HEAD.optimizer(optax.sgd, RATE, params=PARAMS, also_train=given),
            factors=factors,
            gradients=[factors],
        )
        np.testing.assert_allclose(after["head"]["bias"]["d"], (1 - given * RATE) * factors["head"]["bias"]["d"], 1e-5)
        np.testing.assert_allclose(own(after)["g"], (1 - 0.1 * RATE) * own(factors)["g"], 1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((optax.adamw(RATE), RATE), "such as optax.adamw; this is of type GradientTransformation"),
        ((RATE, optax.adamw), "give a function that makes an optimiser, such as optax.adamw; this is of type float$"),
        ((optax.scale_by_adam, RATE), "the first argument of scale_by_adam is 'b1', no learning rate"),
        ((optax.inject_hyperparams, RATE), "the first argument of inject_hyperparams is 'inner_factory'"),
        ((lambda rate: {}, RATE), "<lambda> gave no optimiser of optax, but a value of type dict"),
        ((optax.adamw,), r"give a learning rate.*: adapter.optimizer\(adamw, 2e-2, params=params\)"),
        ((optax.adamw, "2e-2"), "the learning rate is of type str; give a number or a schedule"),
        ((optax.adamw, True), "the learning rate is of type bool"),
        ((optax.adamw, np.ones(2)), "the learning rate is of type ndarray"),
        ((optax.adamw, -1.0), "the learning rate is -1.0; give 0 or more"),
        ((optax.adamw, jnp.float32(np.nan)), "the learning rate is nan"),
    ],
)
def test_a_wrong_maker_or_learning_rate_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        ADAPTER.optimizer(*arguments, params=PARAMS)


@pytest.mark.parametrize(
    ("adapter", "arguments", "message"),
    [
        (ADAPTER, {"params": PARAMS, "decay": 0.1}, "adamw was not made: .*'decay'"),
        (ADAPTER, {"params": FACTORS}, "hut has nothing to act on: params= are the base's .*these are 'body/up/a'"),
        (ADAPTER, {"params": {}}, "nothing to act on: .* these are none"),
        (ADAPTER, {"params": {"down": DENSE}}, "target pattern 'up\\$' matches no path"),
        (ADAPTER, {"params": PARAMS, "also_train": 1.0}, "the adapter has no also_train= modules"),
        (WITH_HEAD, {"params": PARAMS, "also_train": -1.0}, "also_train=-1.0 is no multiple of the learning rate"),
        (WITH_HEAD, {"params": PARAMS, "also_train": np.inf}, "also_train=inf is no multiple of the learning rate"),
        (WITH_HEAD, {"params": PARAMS, "also_train": "head"}, "also_train='head' is no number"),
    ],
)
def test_wrong_keywords_are_one_line(adapter, arguments, message):
    with pytest.raises(UserError, match=message):
        adapter.optimizer(optax.adamw, RATE, **arguments)


def test_the_base_in_the_place_of_the_factors_is_refused():
    tx = ADAPTER.optimizer(optax.adamw, RATE, params=PARAMS)
    with pytest.raises(
        UserError, match=r"takes the factors of adapter.init, and body/up/bias is no factor .*did you mean "
    ):
        tx.init(PARAMS)
    state = jax.eval_shape(tx.init, FACTORS)
    with pytest.raises(UserError, match="takes gradients with respect to the factors, and body/up/bias is no factor"):
        jax.eval_shape(tx.update, PARAMS, state, PARAMS)
    with pytest.raises(UserError, match="a single array is no factor"):
        tx.init(np.ones(2))
    with pytest.raises(UserError, match=r"factor body/up/a has shape \[4, 1\], and \[4, 2\] by the params="):
        tx.init(drawn(Adapter(HUT(rank=1), "up$")))
