"""Training data that is read as it is needed, in place of `Examples`, which are in memory."""

from abc import ABC, abstractmethod

import grain

from hut_jax.data.batching import Batches, Batching, Examples, batch_dataset
from hut_jax.data.packing import Packed
from hut_jax.parallel.processes import ALL, Share


class Stream(ABC):
    """Rows of training batches, read as they are needed. Its length is the rows of an epoch, about."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def longest(self) -> int:
        """The most positions of an example."""

    @property
    @abstractmethod
    def mean_length(self) -> float:
        """The mean of the positions of an example, of a sample."""

    @abstractmethod
    def limit_tokens(self, vocab_size: int) -> None:
        """Refuse a token that is not below this, where it comes."""

    @abstractmethod
    def describe(self) -> str:
        """What the data is, in a few words."""

    @abstractmethod
    def batches(self, batching: Batching, share: Share) -> grain.IterDataset:
        """The batches of all epochs: this process's share of each. The order depends on the seed alone."""


def training_batches(data: Examples | Stream, batching: Batching, share: Share = ALL) -> grain.IterDataset:
    """The batches of training, as a grain dataset whose position can be saved."""
    if isinstance(data, Stream):
        return data.batches(batching, share)
    return batch_dataset(data, batching, share).to_iter_dataset()


def mean_length(data: Examples | Stream) -> float:
    """The mean of the positions of an example, or of a packed row; of a stream the mean of a sample."""
    return data.mean_length if isinstance(data, Stream) else float(data.inputs.mean())


def describe_training(data: Examples | Stream, batching: Batching) -> tuple[str, str, str]:
    """What the training data is, what a batch consists of, and how full batches are, in words."""
    if isinstance(data, Stream):
        return data.describe(), "rows", ""
    padding = Batches(data, batching).report()
    full = (
        f"; {100 * padding.real_tokens:.0f} % of the positions hold real tokens, in {len(padding.shapes)} batch shapes"
    )
    if isinstance(data, Packed):
        return f"{len(data.sequences):,} training examples in {len(data):,} rows", "rows", full
    return f"{len(data):,} training examples", "examples", full
