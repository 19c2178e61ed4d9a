r"""Pre-train a small GPT-2 from random weights on any text: the quickstart's base is made by this.

    python -m hut_jax.train --config=configs/lm.py --config.data.text=books.txt.xz --workdir=runs/lm
    python -m hut_jax.merge --workdir=runs/lm --output=assets/tiny --dtype=bfloat16

Full fine-tuning from random initialisation is pre-training: the same loop, `W = W0 + D` with W0 drawn at
random. With `--config.init=pretrained` and an adapter of another name the same config adapts a model to a text.
The architecture is that of `assets/tiny/config.json`: 6 layers, 128 wide, 1.5 million numbers, 2,048 tokens.

RoBERTa and BERT learn to predict tokens that are hidden from them, with `--config.task=mlm`: from random weights,

    python -m hut_jax.train --config=configs/lm.py --config.task=mlm --config.model=ROBERTA \
        --config.data.text=books.txt --workdir=runs/mlm

and pretrained, with an adapter,

    python -m hut_jax.train --config=configs/lm.py --config.task=mlm --config.model=roberta-base \
        --config.init=pretrained --config.adapter.name=hut --config.data.text=books.txt --workdir=runs/adapted

`ROBERTA` is a folder with a config.json and a tokenizer, the model's or another's (`--config.tokenizer`).
"""

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform


def get_config() -> ConfigDict:
    """The config; `config.data.text` must be given."""
    config = default_config("lm")
    config.model = "assets/tiny"
    config.init = "random"

    config.data.block = 256  # the model's n_positions
    config.data.holdout = 0.002  # the end of the text; enough for a loss to two digits

    set_transform(config, "full")

    config.train.epochs = 1.0  # one pass: text is plenty, and every block is new
    config.train.batch_size = 8
    config.train.learning_rate = 3e-3  # usual for a model of this size
    config.train.warmup = 0.02
    config.train.decay = "cosine"
    config.train.weight_decay = 0.0  # it would pull towards the random W0
    config.train.beta2 = 0.95
    config.train.eps = 1e-8

    config.eval.every = 500
    config.checkpoint.every = 500
    return config
