"""AdamW over the factors, with a warm-up and a decay, and a learning-rate multiplier for each factor."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from hut_jax.adapters.optimizer import scale_by_multipliers
from hut_jax.core.errors import UserError
from hut_jax.training.config import TrainConfig

SHORT_WARMUP = 0.06
"""The share of the run that warms up if `train.steps` makes the run shorter than its warm-up."""


def warmup_steps(train: TrainConfig, steps: int) -> int:
    """The number of warm-up steps in a run of `steps`.

    If `train.steps` makes the run shorter than its warm-up, the warm-up is cut.

    Raises:
        UserError: a run of whole epochs is shorter than its warm-up.
    """
    warmup = round(train.warmup * steps) if train.warmup < 1 else int(train.warmup)
    if warmup < steps:
        return warmup
    if train.steps:
        return round(SHORT_WARMUP * steps)
    raise UserError(
        f"config.train.warmup is {warmup} steps and the run has {steps}; "
        f"give fewer steps, or a share of the run, such as {SHORT_WARMUP}"
    )


def schedule(train: TrainConfig, steps: int, peak: float | jax.Array | None = None) -> optax.Schedule:
    """The learning rate by step: a linear warm-up, then `train.decay` up to the last of `steps`.

    Args:
        train: the section `train` of a config, with its learning rates resolved.
        steps: the steps of the whole run.
        peak: replaces `train.learning_rate`; it may be traced.

    Raises:
        UserError: as `warmup_steps`.
    """
    warmup = warmup_steps(train, steps)
    peak = train.learning_rate if peak is None else peak
    after = {
        "linear": optax.linear_schedule(peak, 0.0, max(1, steps - warmup)),
        "cosine": optax.cosine_decay_schedule(peak, max(1, steps - warmup)),
        "constant": optax.constant_schedule(peak),
    }[train.decay]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(1, warmup)), after], [warmup])


def learning_rates(train: TrainConfig, steps: int) -> Callable[[int], float]:
    """The learning rate of each step of the run, as a function of its number from 1.

    Arguments and errors are those of `schedule`.
    """
    # The peak is an argument, so that runs at all learning rates share the compiled program.
    after = jax.jit(lambda peak, ended: schedule(train, steps, peak)(ended))
    return lambda step: float(after(train.learning_rate, step - 1))


def make_optimizer(train: TrainConfig, steps: int, multipliers: PyTree[float]) -> optax.GradientTransformationExtraArgs:
    """Clipping by the global norm, Adam, decoupled weight decay, and the learning rate.

    Its `update` also takes `learning_rate` and `multipliers`, in place of those given here. They may be traced: runs
    that differ only in them can then share a compiled program.

    Args:
        train: the section `train` of a config, with its learning rates resolved.
        steps: the steps of the whole run.
        multipliers: the learning-rate multiplier of each factor, a tree like the factors'.
    """
    parts = [optax.clip_by_global_norm(train.clip)] if train.clip else []
    parts += [
        optax.scale_by_adam(train.beta1, train.beta2, train.eps),
        optax.add_decayed_weights(train.weight_decay),
        _link("multipliers", scale_by_multipliers, multipliers),
        _link(
            "learning_rate",
            lambda peak: optax.scale_by_learning_rate(schedule(train, steps, peak)),
            train.learning_rate,
        ),
    ]
    return optax.with_extra_args_support(optax.chain(*parts))


def _link(
    name: str, make: Callable[[Any], optax.GradientTransformation], default: Any
) -> optax.GradientTransformationExtraArgs:
    """A link of `optax.chain`, made from the argument `name` of `update`, or else from the default."""

    def update(updates: Any, state: Any, params: Any = None, **arguments: Any) -> Any:
        return make(arguments.get(name, default)).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(make(default).init, update)
