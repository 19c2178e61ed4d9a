"""How a run's examples become batches."""

from hut_jax.config import RunConfig
from hut_jax.data.batching import Batching


def training_batching(config: RunConfig) -> Batching:
    """The batches of training. A step takes `config.train.accumulate` of them."""
    size = config.train.batch_size // config.train.accumulate
    return config.data.training(config.data.batching(size, config.seed))


def evaluation_batching(config: RunConfig) -> Batching:
    """The batches of evaluations and predictions: one pass over all examples."""
    size = config.eval.batch_size
    return config.data.batching(size, config.seed).for_evaluation(size)
