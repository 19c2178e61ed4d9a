"""HUT on a small GPT-2 and made-up restaurants: offline, less than two minutes on two cores.

    make quickstart

or, for the training alone,

    python -m hut_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

What to expect: README shows what it prints; results/quickstart.json has its figures. The base names no restaurant
of the test split. With HUT it names more than nine in ten, and none of them was seen in training.

The base in assets/tiny has read public-domain books and learned to copy from its context (configs/copying.py). It knows
nothing of restaurants. The data in assets/restaurants is generated:

    python -m hut_jax.data.e2e.restaurants --seed=3 --output=assets/restaurants
"""

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform


def get_config() -> ConfigDict:
    """The config: like configs/e2e.py, for a smaller base and less data."""
    config = default_config("e2e")
    config.model = "assets/tiny"
    config.data.dir = "assets/restaurants"
    config.data.cache = "runs/tfds"  # beside the runs, so that deleting the clone leaves nothing behind
    config.data.length_multiple = (
        104  # the tokens of the longest example: compiling another shape takes longer than padding
    )
    config.data.slot_multiple = 64

    set_transform(config, "hut", rank=16, spread="cyclic")
    config.adapter.targets = ("all-linear",)  # the base is small and far from its task, so every kernel is needed

    config.train.scan_layers = True  # compiles one layer, not six
    config.train.remat = "none"  # the model is small, and so is what it computes
    config.train.epochs = 1.0
    config.train.batch_size = 8
    config.train.learning_rate = 2.5e-2  # at twice as much the model learns phrases sooner and forgets how to copy
    config.train.warmup = 0.06
    config.train.beta2 = 0.98  # the run is short
    config.train.label_smoothing = 0.0  # so that the training loss, too, is the logarithm of a perplexity

    config.log.every = 20
    config.eval.every = 250
    config.checkpoint.every = 250
    return config
