"""AdamW over the factors, with a warmed-up and decaying rate, and a rate of its own for factors that want one."""

import jax
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hut_jax.core.errors import UserError

SHORT_WARMUP = 0.06
"""The share of a run that warms up where `train.steps` makes it shorter than its warm-up."""


def warmup_updates(train: ConfigDict, steps: int) -> int:
    """The updates over which the rate rises, in a run of `steps`.

    `train.steps` bounds a run, and a run so bounded may be shorter than the warm-up of its recipe.

    Raises:
        UserError: a run of whole epochs is shorter than its warm-up.
    """
    warmup = round(train.warmup * steps) if train.warmup < 1 else int(train.warmup)
    if warmup < steps:
        return warmup
    if train.steps:
        return round(SHORT_WARMUP * steps)
    raise UserError(
        f"config.train.warmup is {warmup} updates and the run has {steps}; "
        f"make it shorter, or give a share of the run, such as {SHORT_WARMUP}"
    )


def schedule(train: ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate by update: a linear rise over the warm-up, then `train.decay` to the last of `steps`.

    Raises:
        UserError: as `warmup_updates`.
    """
    warmup = warmup_updates(train, steps)
    peak = train.learning_rate
    after = {
        "linear": optax.linear_schedule(peak, 0.0, max(1, steps - warmup)),
        "cosine": optax.cosine_decay_schedule(peak, max(1, steps - warmup)),
        "constant": optax.constant_schedule(peak),
    }[train.decay]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(1, warmup)), after], [warmup])


def make_optimizer(train: ConfigDict, steps: int, rates: PyTree[float]) -> optax.GradientTransformation:
    """Clipping by the global norm, Adam, decoupled weight decay, and the rate.

    Args:
        train: `config.train`.
        steps: updates of the whole run.
        rates: for each factor what to multiply the learning rate by, as `recipe.rates` has them.
    """
    parts = [optax.clip_by_global_norm(train.clip)] if train.clip else []
    parts += [
        optax.scale_by_adam(train.beta1, train.beta2, train.eps),
        optax.add_decayed_weights(train.weight_decay),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, rate: u * rate, updates, rates)),
        optax.scale_by_learning_rate(schedule(train, steps)),
    ]
    return optax.chain(*parts)
