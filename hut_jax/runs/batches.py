"""How a run's examples become batches."""

from ml_collections import ConfigDict

from hut_jax.data.batching import Batching


def training_batching(config: ConfigDict) -> Batching:
    """The batches of training; a step takes `config.train.accumulate` of them."""
    return Batching(
        config.train.batch_size // config.train.accumulate,
        seed=config.seed,
        length_multiple=config.data.length_multiple,
        slot_multiple=config.data.slot_multiple,
    )


def evaluation_batching(config: ConfigDict) -> Batching:
    """The batches of evaluations and predictions: one pass over all examples."""
    return training_batching(config).for_evaluation(config.eval.batch_size)
