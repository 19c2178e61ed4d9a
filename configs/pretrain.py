r"""Pre-train a GPT-2 or a RoBERTa on a text, to stand in for those on the hub.

    python -m hut_jax.train --config=configs/pretrain.py:gpt2 --config.tokenizer=GPT2 --config.data.text=BOOKS \
        --workdir=runs/bases/gpt2
    python -m hut_jax.merge --workdir=runs/bases/gpt2 --output=runs/bases/gpt2/merged

`:gpt2` and `:roberta` have 6 layers, width 256 and 18 million parameters. `:gpt2_50m` and `:roberta_50m` have 8 layers,
width 512 and 51 million parameters; they are for a GPU and a text of 90 MB. All have the vocabularies of the real
models, 50,257 and 50,265 tokens. `configs/bases` holds their shapes. `GPT2` is a folder with the real tokenizer of
GPT-2; a RoBERTa needs that of RoBERTa. `BOOKS` is a text of at least 20 MB (32 MB for RoBERTa).
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from hut_jax.config import set_task
from hut_jax.core.errors import UserError, nearest
from hut_jax.runs import config_files

HERE = Path(__file__).parent


class Base(NamedTuple):
    """How a base is trained."""

    task: str
    block: int
    batch_size: int
    steps: int
    max_bytes: int  # of English text; training reads a little less
    learning_rate: float
    warmup: float


BASES = {
    "gpt2": Base("lm", block=256, batch_size=8, steps=2200, max_bytes=20_000_000, learning_rate=2e-3, warmup=0.02),
    "gpt2_50m": Base("lm", block=256, batch_size=32, steps=2400, max_bytes=90_000_000, learning_rate=2e-3, warmup=0.02),
    # Layers that normalise after the sum, as RoBERTa's do, need a lower learning rate and a longer warm-up.
    "roberta": Base("mlm", block=128, batch_size=16, steps=3600, max_bytes=32_000_000, learning_rate=7e-4, warmup=0.06),
    "roberta_50m": Base(
        "mlm", block=128, batch_size=32, steps=10_000, max_bytes=90_000_000, learning_rate=7e-4, warmup=0.06
    ),
}


def get_config(name: str = "") -> ConfigDict:
    """The config that pre-trains one of the bases.

    Raises:
        UserError: there is none of this name.
    """
    if name not in BASES:
        raise UserError(f"no base {name!r}; {nearest(name, BASES)}")
    base = BASES[name]
    config = config_files.load_config_file(str(HERE / "lm.py"))
    set_task(config, base.task)
    config.model = str(HERE / "bases" / name)
    config.data.block = base.block
    config.data.max_bytes = base.max_bytes
    config.data.holdout = 0.01
    config.train.batch_size = base.batch_size
    config.train.steps = base.steps
    config.train.learning_rate = base.learning_rate
    config.train.warmup = base.warmup
    config.train.dropout = False  # no token is read more than twice
    config.eval.every = 500
    config.checkpoint.every = 200
    return config
