"""The choice of each adapter's learning rate, by runs that are never reported.

These runs train on a part of the training data and are scored on the rest of it. They have a seed of their own, and
fewer steps. Learning rates are multiples of the method's own. Every adapter begins with `FIRST`. As long as its best
one is the lowest or the highest that it has tried, it tries the next half-decade on that side, up to `MOST` in all.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from experiments.record import Record, run_name
from hut_jax.config import RunConfig, with_fields
from hut_jax.core.errors import UserError

SEED = 1000
"""The seed of the runs that choose. It may not be reported."""
HOLDOUT = 0.1
"""The share of the training data that they are scored on."""
STEPS = 0.25
"""The share of the config's steps that they have."""
NEVER = 10**9
FIRST = (1.0, 3.0)
MOST = 7


def as_trial(config: RunConfig) -> RunConfig:
    """The config of a run that chooses: shorter, and scored on training examples that it does not see."""
    train = config.train
    steps, epochs = (max(1, round(STEPS * train.steps)) if train.steps else 0), STEPS * train.epochs
    warmup = train.warmup if train.warmup < 1 else max(1.0, STEPS * train.warmup)
    shorter = {"train.steps": steps, "train.epochs": epochs, "train.warmup": warmup}
    return with_fields(config, shorter | {"eval.holdout": HOLDOUT, "eval.every": NEVER})


def beyond(merits: Mapping[float, float]) -> float | None:
    """The half-decade that comes next to the best learning rate, if that is the lowest or the highest of those tried.

    Args:
        merits: how good each learning rate is; minus infinity if the run diverged.

    Returns:
        None if the best one is inside, or `MOST` were tried.
    """
    tried = sorted(merits)
    if len(tried) >= MOST:
        return None
    best = max(tried, key=lambda multiple: merits[multiple])
    if best == tried[0]:  # or all diverged
        return float(f"{best / 3:.0e}")
    return float(f"{best * 10 / 3:.0e}") if best == tried[-1] else None


def choose(
    adapters: Sequence[str],
    multiples: Sequence[float],
    run: Callable[[Sequence[tuple[str, float]]], Mapping[str, Record]],
) -> tuple[dict[str, float], dict[str, Record]]:
    """The best learning rate of each adapter, as a multiple of its method's own, and the runs by name.

    Args:
        adapters: such as `hut:rank=8`.
        multiples: the only ones to try; none: `FIRST`, and further until the best is inside.
        run: the runs of some adapters, each at a multiple, that did not diverge.

    Raises:
        UserError: an adapter diverged at all that it tried.
    """
    merits: dict[str, dict[float, float]] = {adapter: {} for adapter in adapters}
    tried: dict[str, Record] = {}
    # Runs that begin together have different adapters: each adapter's later runs find what its first compiled.
    wanted = [(adapter, multiple) for multiple in multiples or FIRST for adapter in adapters]
    while wanted:
        tried |= (ended := run(wanted))
        for adapter, multiple in wanted:
            merits[adapter][multiple] = _merit(ended.get(run_name(adapter, multiple, SEED)))
        further = {} if multiples else {adapter: beyond(merits[adapter]) for adapter in adapters}
        wanted = [(adapter, multiple) for adapter, multiple in further.items() if multiple is not None]
    best = {}
    for adapter, own in merits.items():
        best[adapter] = max(sorted(own), key=own.__getitem__)
        if own[best[adapter]] == -math.inf:
            tries = ", ".join(f"{multiple:g}" for multiple in sorted(own))
            raise UserError(f"{adapter} diverges at each learning rate, {tries} times its own; give lower --rates")
    return best, tried


def _merit(record: Record | None) -> float:
    if record is None:
        return -math.inf
    return record.score if record.maximize else -record.score
