r"""Pre-train a small GPT-2 from random weights on any text. The quickstart's base began like this, and went on to
`configs/copying.py`.

    python -m hut_jax.train --config=configs/lm.py --config.data.text=books.txt.xz --workdir=runs/lm
    python -m hut_jax.merge --workdir=runs/lm --output=runs/lm/merged --dtype=bfloat16

Full fine-tuning from random weights is pre-training: the same loop with `W = W0 + D`, where W0 is drawn at random. With
`--config.init=pretrained` and another transformation (`--config.adapter.name`), the same config adapts a model to a
text. The architecture is that of `assets/tiny/config.json`: 6 layers, width 128, 2,048 tokens, 1.5 million parameters.

With `--config.task=mlm`, RoBERTa and BERT learn to predict masked tokens. From random weights:

    python -m hut_jax.train --config=configs/lm.py --config.task=mlm --config.model=ROBERTA \
        --config.data.text=books.txt --workdir=runs/mlm

From pretrained weights, with an adapter:

    python -m hut_jax.train --config=configs/lm.py --config.task=mlm --config.model=roberta-base \
        --config.init=pretrained --config.adapter.name=hut --config.data.text=books.txt --workdir=runs/adapted

`ROBERTA` is a folder with a config.json and a tokenizer; `--config.tokenizer` names another tokenizer.
"""

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform


def get_config() -> ConfigDict:
    """The config; `config.data.text` must be given."""
    config = default_config("lm")
    config.model = "assets/tiny"
    config.init = "random"

    config.data.block = 256  # the model's n_positions
    config.data.holdout = 0.002  # a share of the text, from its end; enough to give the loss to two digits

    set_transform(config, "full")

    config.train.epochs = 1.0  # one pass: there is plenty of text, and every block is new
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
