"""AdamW over the factors, with a warm-up and a decay, and a learning-rate multiplier for each factor."""

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


def schedule(train: TrainConfig, steps: int) -> optax.Schedule:
    """The learning rate by step: a linear warm-up, then `train.decay` up to the last of `steps`.

    Raises:
        UserError: as `warmup_steps`.
    """
    warmup = warmup_steps(train, steps)
    peak = train.learning_rate
    after = {
        "linear": optax.linear_schedule(peak, 0.0, max(1, steps - warmup)),
        "cosine": optax.cosine_decay_schedule(peak, max(1, steps - warmup)),
        "constant": optax.constant_schedule(peak),
    }[train.decay]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(1, warmup)), after], [warmup])


def make_optimizer(train: TrainConfig, steps: int, multipliers: PyTree[float]) -> optax.GradientTransformation:
    """Clipping by the global norm, Adam, decoupled weight decay, and the learning rate.

    Args:
        train: the section `train` of a config, with its learning rates resolved.
        steps: the steps of the whole run.
        multipliers: the learning-rate multiplier of each factor, a tree like the factors'.
    """
    parts = [optax.clip_by_global_norm(train.clip)] if train.clip else []
    parts += [
        optax.scale_by_adam(train.beta1, train.beta2, train.eps),
        optax.add_decayed_weights(train.weight_decay),
        scale_by_multipliers(multipliers),
        optax.scale_by_learning_rate(schedule(train, steps)),
    ]
    return optax.chain(*parts)
