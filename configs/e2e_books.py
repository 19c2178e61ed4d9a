r"""E2E on a GPT-2 that `pretrain.py` makes: `--config=configs/e2e_books.py:gpt2_50m`, for a GPU.

    python -m experiments.method_comparison --config=configs/e2e_books.py:gpt2_50m --config.data.dir=E2E --jobs=8 \
        --adapters=hut:rank=8,lora:rank=8 --rates=0.5,1.5,5,15 --seeds=0,1,2 --workdir=runs/e2e_books

Trains for one epoch on 6,400 of the 42,061 rows, in batches of 16. The score is the loss on 800 rows of the development
set. It is measured before and after training. `:gpt2` is for two cores: it has the smaller base and 4,800 rows in
batches of 8. The base knows only old books, which are far from restaurants. So methods with targets act on all dense
layers. `E2E` is the folder of the official files.
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from hut_jax.core.errors import UserError, nearest
from hut_jax.runs import config_files

NEVER = 10**9


class Size(NamedTuple):
    """How many rows a base is trained on, and the shapes of its batches; few shapes save compiling and cost padding."""

    rows: int
    batch_size: int
    length_multiple: int
    slot_multiple: int


SIZES = {
    "gpt2": Size(rows=4800, batch_size=8, length_multiple=32, slot_multiple=8),
    "gpt2_50m": Size(rows=6400, batch_size=16, length_multiple=80, slot_multiple=80),
}


def get_config(base: str = "") -> ConfigDict:
    """The config on a base; `config.data.dir` must be given where the public files cannot be downloaded.

    Raises:
        UserError: there is no such base.
    """
    if base not in SIZES:
        raise UserError(f"no base {base!r}; {nearest(base, SIZES)}")
    size = SIZES[base]
    config = config_files.load_config_file(str(Path(__file__).with_name("e2e.py")))
    config.model = f"runs/bases/{base}/merged"
    config.data.max_examples = size.rows
    config.data.length_multiple = size.length_multiple
    config.data.slot_multiple = size.slot_multiple
    config.adapter.targets = ("all-linear",)
    config.train.epochs = 1.0
    config.train.batch_size = size.batch_size
    config.train.warmup = 0.06
    config.eval.every = NEVER
    config.eval.batch_size = 64
    config.eval.max_examples = 800
    config.checkpoint.every = 400
    config.log.every = 20
    return config
