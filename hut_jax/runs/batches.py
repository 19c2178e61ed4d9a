"""How a run's examples become batches."""

from hut_jax.config import RunConfig
from hut_jax.data.batching import Batching


def training_batching(config: RunConfig) -> Batching:
    """The batches of training. A step takes `config.train.accumulate` of them."""
    size = config.train.batch_size // config.train.accumulate
    return config.data.batching(size, config.seed)


def evaluation_batching(config: RunConfig) -> Batching:
    """The batches of evaluations and predictions: one pass over all examples."""
    return training_batching(config).for_evaluation(config.eval.batch_size)
