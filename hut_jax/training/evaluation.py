"""The compiled evaluation of factors."""

from collections.abc import Callable, Iterable
from functools import partial

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array, PyTree

from hut_jax.core.compilation import Program
from hut_jax.data.batching import Batch
from hut_jax.data.loss import Evaluated, Loss
from hut_jax.training.steps import Forward


class Evaluation:
    """Evaluates factors on batches, without dropout.

    Args:
        forward: the adapted model.
        loss: the loss of a batch, without label smoothing.
        place: puts a batch on the devices that share it out.
        whole: a sharding that gives every device a copy of the results, so that every process can read them. With None
            JAX chooses where the results are.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        whole: NamedSharding | None = None,
    ):
        self._place = place
        self._evaluate = Program(
            lambda base, factors, batch: loss(partial(forward, base, factors), batch, deterministic=True),
            out_shardings=whole,
        )

    def __call__(self, base: PyTree, factors: PyTree[Array], batches: Iterable[Batch]) -> Evaluated:
        """The mean loss over all batches, and their outputs, both on the host."""
        evaluated = [self._evaluate(base, factors, self._place(batch)) for batch in batches]
        losses, weights, outputs = zip(*jax.device_get(evaluated), strict=True)
        return Evaluated(sum(map(float, losses)) / sum(map(float, weights)), list(outputs))
