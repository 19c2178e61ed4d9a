"""What every task gives the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from hut_jax.data.batching import Sequences


@dataclass(frozen=True)
class Task:
    """Data to learn from and to be judged by, and what to do with a batch of it.

    Attributes:
        train: the examples to learn from.
        validation: those to pick the best factors by.
        loss: `loss(apply, batch, label_smoothing=, **kwargs)`: a batch's summed loss and its weight.
        metrics: from a mean loss to what is reported; "loss" is among it.
        notes: what the user should know of the data, such as how much of it was cut.
    """

    train: Sequences
    validation: Sequences
    loss: Callable[..., tuple[Array, Array]]
    metrics: Callable[[float], dict[str, float]]
    notes: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens that the model must take at once."""
        return max(int(split.lengths.max()) - 1 for split in (self.train, self.validation))


LoadTask = Callable[[Any, Any], Task]
"""From a config and a tokenizer to the task."""
