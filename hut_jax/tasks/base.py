"""The protocol of a task, and three abilities of some tasks: to generate text, to score a test set, to predict labels.

A `Task` holds what is known before its data is read. Each family of tasks is a subclass, in a file of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int64

from hut_jax.core.errors import UserError
from hut_jax.data.batching import Examples, evenly_spread
from hut_jax.data.loss import Evaluated, Loss
from hut_jax.data.stream import Stream
from hut_jax.data.tokenizer import Tokenizer
from hut_jax.metrics.e2e.score import TextScores
from hut_jax.models.hub.heads import Head
from hut_jax.tasks.config import DataConfig


@dataclass(frozen=True)
class TaskData:
    """The examples of a task as tokens.

    Attributes:
        train: the training examples, in memory or read as they are needed.
        validation: the validation splits, one or several. They decide which factors are the best.
        notes: messages for the user about the data, such as the number of examples that were cut.
        groups: a number for each training example. Examples of one number, such as the texts of one meaning
            representation, are held out together. None: each example is a group.
    """

    train: Examples | Stream
    validation: Mapping[str, Examples]
    notes: tuple[str, ...] = ()
    groups: Int64[np.ndarray, " n"] | None = None

    @property
    def longest(self) -> int:
        """The number of positions of the longest example."""
        streams = [self.train.longest] if isinstance(self.train, Stream) else [int(self.train.inputs.max())]
        return max([*streams, *(int(split.inputs.max()) for split in self.validation.values())])

    def limit_validation(self, most: int) -> "TaskData":
        """The same data with at most `most` examples of each validation split, evenly spread over it; 0: all."""

        def part(split: Examples) -> Examples:
            return split.take(evenly_spread(len(split), most)) if most else split

        return replace(self, validation={name: part(split) for name, split in self.validation.items()})

    def hold_out(self, share: float) -> "TaskData":
        """The same data with a share of the training examples, evenly spread, in place of the validation splits.

        The longest example stays in training, so that batches have the shapes that they have without this. Several
        validation splits share out what is held out.

        Args:
            share: of the groups of training examples; 0: nothing is held out.

        Raises:
            UserError: there are too few groups.
        """
        if not share:
            return self
        if isinstance(self.train, Stream):
            raise UserError("config.eval.holdout is for data in memory; this task has config.data.holdout")
        groups = np.arange(len(self.train)) if self.groups is None else self.groups
        others = np.array(list(dict.fromkeys(groups[groups != groups[self.train.inputs.argmax()]].tolist())), np.int64)
        most = max(len(self.validation), round(share * (len(others) + 1)))
        if most > len(others):
            raise UserError(
                f"config.eval.holdout={share:g} would leave no training examples, or nothing for each of the "
                f"validation splits: the training data has {len(others) + 1} groups of examples"
            )
        held = np.isin(groups, others[evenly_spread(len(others), most)])
        rows = np.flatnonzero(held)
        parts = {name: self.train.take(rows[i :: len(self.validation)]) for i, name in enumerate(self.validation)}
        kept = np.flatnonzero(~held)
        return replace(self, train=self.train.take(kept), validation=parts, groups=groups[kept])


class Example(NamedTuple):
    """The shapes of a batch, to count the cost of a training step.

    Attributes:
        inputs: the model's arguments in a forward pass.
        batch: the loss function's batch.
        loss: the task's loss function. The ids of its special tokens do not change any count.
    """

    inputs: Mapping[str, jax.ShapeDtypeStruct]
    batch: Mapping[str, jax.ShapeDtypeStruct]
    loss: Loss


class Task(ABC):
    """A task: its head, tokenizer, data, loss and metrics.

    Attributes:
        name: the name in `config.task`.
        score_name: the metric by which the best factors are chosen.
        maximize: whether a higher value of that metric is better.
        data_section: the class of the section `data` in a config.
    """

    name: str
    score_name: str = "loss"
    maximize: bool = False
    data_section: ClassVar[type[DataConfig]]

    @property
    @abstractmethod
    def head(self) -> Head:
        """The head that the model needs."""

    @abstractmethod
    def load_tokenizer(self, source: str, model: Any) -> Tokenizer:
        """Load the tokenizer of a folder or hub name. It has the special tokens that the task needs.

        Args:
            source: the folder or hub name.
            model: the config of the model that reads the tokens.

        Raises:
            UserError: there is no tokenizer, or it lacks a special token.
        """

    def fit_tokenizer(self, tokenizer: Tokenizer, data: Any) -> None:
        """Set what the section `data` of a config says about the tokenizer: of most tasks, nothing.

        Raises:
            UserError: a file that it names cannot be read.
        """
        return

    @abstractmethod
    def load_data(self, data: Any, tokenizer: Tokenizer) -> TaskData:
        """The training and validation examples.

        Args:
            data: the section `data` of a config.
            tokenizer: from `load_tokenizer`.

        Raises:
            UserError: the data is missing or malformed.
        """

    @abstractmethod
    def loss(self, tokenizer: Tokenizer, label_smoothing: float = 0.0) -> Loss:
        """The loss function.

        Args:
            tokenizer: from `load_tokenizer`.
            label_smoothing: the share of probability spread over all labels.

        Raises:
            UserError: the task has no labels to smooth.
        """

    @abstractmethod
    def metrics(self, evaluated: Mapping[str, Evaluated]) -> dict[str, float]:
        """The metrics of the validation splits. They include "loss" and `score_name`."""

    @abstractmethod
    def example(self, config: Any, rows: int, length: int, label_smoothing: float = 0.0) -> Example:
        """A batch without padding.

        Args:
            config: the model's.
            rows: the number of examples.
            length: the number of tokens in each.
            label_smoothing: the loss function's.
        """

    def signed_score(self, metrics: Mapping[str, float]) -> float:
        """The score, negated if lower is better: a higher signed score is always better."""
        return metrics[self.score_name] if self.maximize else -metrics[self.score_name]


class Ability(Task):
    """An ability that only some tasks have.

    Attributes:
        lacks: the words for a task without the ability, as in "the task 'sst2' generates no text".
    """

    lacks: ClassVar[str]


class GeneratesText(Ability):
    """A task whose runs continue texts."""

    lacks = "generates no text"

    @abstractmethod
    def prompts(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        """The tokens that the model continues, for each text."""

    def end_tokens(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The tokens that end what the model writes: the tokenizer's end token, if the task knows no other."""
        return (tokenizer.eos_id,)


class ScoresTexts(GeneratesText):
    """A task with a test set for generated texts, and metrics for them."""

    lacks = "has no test set to generate texts for"

    @abstractmethod
    def load_references(self, data: Any) -> dict[str, list[str]]:
        """The texts of the test set to continue, each with its references.

        Args:
            data: the section `data` of a config.

        Raises:
            UserError: the data is missing or malformed.
        """

    @abstractmethod
    def score_texts(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> TextScores:
        """The scores of the generated texts, one for each group of references."""

    @abstractmethod
    def can_score_fully(self) -> bool:
        """Whether this machine has all that the scores need."""


class PredictsLabels(Ability):
    """A task that gives a text, or a pair of texts, a label: a class or a value."""

    lacks = "has no labels to predict"

    @property
    @abstractmethod
    def text_names(self) -> Sequence[Sequence[str]]:
        """The names that files have for each text of an example."""

    @abstractmethod
    def load_splits(self, data: Any, kind: str) -> Mapping[str, Sequence[Any]]:
        """The records of the splits of a kind, each with its `texts`.

        Args:
            data: the section `data` of a config.
            kind: "validation", or "test", whose labels only a test server knows.

        Raises:
            UserError: the data is missing or malformed, or has no test split.
        """

    @abstractmethod
    def encode(self, texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, data: Any) -> tuple[Examples, int]:
        """The texts as tokens, cut as the section `data` of a config says, and the number of those that were cut."""

    @abstractmethod
    def predict(self, apply: Callable[..., Array], batch: Mapping[str, Array]) -> Array:
        """A prediction for each row of a batch: `[rows]`."""

    @abstractmethod
    def label(self, prediction: int | float) -> str | float:
        """The name of a predicted class, or the predicted value."""

    @abstractmethod
    def score_predictions(
        self, splits: Mapping[str, Sequence[Any]], predictions: Mapping[str, Sequence[Any]]
    ) -> dict[str, float]:
        """The metrics of predictions for the records of all validation splits."""

    @abstractmethod
    def write_predictions(
        self, folder: str | Path, split: str, records: Sequence[Any], predictions: Sequence[int] | Sequence[float]
    ) -> Path:
        """Write the file that the test server takes for this split; returns its path.

        A validation split has a file of the same form.

        Raises:
            UserError: a prediction is not a label of the task, or the file cannot be written.
        """
