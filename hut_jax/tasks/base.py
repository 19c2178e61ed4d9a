"""What every task gives the training loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxtyping import Array
from ml_collections import ConfigDict

from hut_jax.data.batching import Examples, evenly_spread
from hut_jax.data.tokenizer_base import BaseTokenizer


@dataclass(frozen=True)
class Task:
    """Data to learn from and to be judged by, and what to do with a batch of it.

    Attributes:
        train: the examples to learn from.
        validation: those to pick the best factors by, in one split or several.
        loss: `loss(apply, batch, label_smoothing=, **kwargs)`: a batch's summed loss, its weight, and what `metrics`
            wants to know of the batch.
        metrics: from each validation split's mean loss and outputs (`training.Judged`) to what is reported; "loss"
            is among it.
        headline: the metric that the best factors are picked by.
        maximize: whether more of it is better.
        notes: what the user should know of the data, such as how much of it was cut.
    """

    train: Examples
    validation: Mapping[str, Examples]
    loss: Callable[..., tuple[Array, Array, Any]]
    metrics: Callable[[Mapping[str, Any]], dict[str, float]]
    headline: str = "loss"
    maximize: bool = False
    notes: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Positions that the model must take at once."""
        return max(int(split.inputs.max()) for split in (self.train, *self.validation.values()))

    def judged_by(self, most: int) -> "Task":
        """The same, to be judged by `most` examples of each split, evenly spread from its first on; 0: by all."""

        def part(split: Examples) -> Examples:
            return split.take(evenly_spread(len(split), most)) if most else split

        return replace(self, validation={name: part(split) for name, split in self.validation.items()})

    def score(self, metrics: Mapping[str, float]) -> float:
        """The headline, turned so that more is better."""
        return metrics[self.headline] if self.maximize else -metrics[self.headline]


class Kind(NamedTuple):
    """A task before its data is read.

    Attributes:
        load: from a config and a tokenizer to the task.
        head: the head that the model must have, and its labels: options of `load_pretrained`.
    """

    load: Callable[[ConfigDict, BaseTokenizer], Task]
    head: Mapping[str, Any]
