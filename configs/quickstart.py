"""HUT on a small GPT-2 and made-up restaurants: offline, about a minute on two cores.

    make quickstart

or, for the training alone,

    python -m hut_jax.train --config=configs/quickstart.py --workdir=runs/quickstart

What to expect: on held-out restaurants the perplexity falls from 206 to 3.4. The adapter has 124,416 trainable
parameters. Training takes 75 steps and 64 s on 2 cores of an AMD EPYC.

The base in assets/tiny was pre-trained on public-domain books by configs/lm.py and knows nothing of restaurants.
The data in assets/restaurants is generated: python -m hut_jax.data.e2e.restaurants --output=assets/restaurants
"""

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform


def get_config() -> ConfigDict:
    """The config: like configs/e2e.py, for a smaller base and less data."""
    config = default_config("e2e")
    config.model = "assets/tiny"
    config.data.dir = "assets/restaurants"
    config.data.cache = "runs/tfds"  # beside the runs, so that deleting the clone leaves nothing behind
    config.data.length_multiple = 128  # compiling a shape takes longer here than padding does
    config.data.slot_multiple = 128

    set_transform(config, "hut", rank=8)
    config.adapter.targets = ("all-linear",)  # the base is small and far from its task, so every kernel is needed

    config.train.scan_layers = True  # compiles one layer, not six
    config.train.remat = "none"  # the model is small, and so is what it computes
    config.train.epochs = 1.0
    config.train.batch_size = 16
    config.train.learning_rate = 1e-1
    config.train.warmup = 0.06
    config.train.label_smoothing = 0.0  # so that the training loss, too, is the logarithm of a perplexity

    config.log.every = 20
    config.eval.every = 50
    config.checkpoint.every = 50
    return config
