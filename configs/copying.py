r"""Teach a small GPT-2 to copy from its context, in three lessons. The quickstart's base was made like this.

    python -m hut_jax.train --config=configs/copying.py:words --config.model=runs/lm/merged --workdir=runs/words
    python -m hut_jax.merge --workdir=runs/words --output=runs/words/merged
    python -m hut_jax.train --config=configs/copying.py:phrases --config.model=runs/words/merged --workdir=runs/phrases
    python -m hut_jax.merge --workdir=runs/phrases --output=runs/phrases/merged
    python -m hut_jax.train --config=configs/copying.py:records --config.model=runs/phrases/merged \
        --workdir=runs/records
    python -m hut_jax.merge --workdir=runs/records --output=assets/tiny --dtype=bfloat16

CONTRIBUTING.md has the commands that make `runs/lm/merged`, a model of old books, and `runs/copying`, the texts of the
lessons (`experiments/bases/copying.py`). A model that starts with the records learned nothing to speak of in 1,000
steps. After a lesson on lists of words that repeat, it copies.
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from hut_jax.core.errors import UserError, nearest
from hut_jax.runs import config_files


class Lesson(NamedTuple):
    """How a lesson is trained."""

    block: int
    batch_size: int
    steps: int
    learning_rate: float
    warmup: float
    decay: str


LESSONS = {
    "words": Lesson(block=64, batch_size=32, steps=500, learning_rate=2e-3, warmup=30.0, decay="constant"),
    "phrases": Lesson(block=64, batch_size=32, steps=900, learning_rate=1e-3, warmup=60.0, decay="constant"),
    "records": Lesson(block=128, batch_size=16, steps=3600, learning_rate=1.2e-3, warmup=0.05, decay="cosine"),
}


def get_config(name: str = "") -> ConfigDict:
    """The config of a lesson.

    Raises:
        UserError: there is none of this name.
    """
    if name not in LESSONS:
        raise UserError(f"no lesson {name!r}; {nearest(name, LESSONS)}")
    lesson = LESSONS[name]
    config = config_files.load_config_file(str(Path(__file__).parent / "lm.py"))
    config.init = "pretrained"
    config.data.text = f"runs/copying/{name}.txt"
    config.data.block = lesson.block
    config.train.batch_size = lesson.batch_size
    config.train.steps = lesson.steps
    config.train.learning_rate = lesson.learning_rate
    config.train.warmup = lesson.warmup
    config.train.decay = lesson.decay
    config.train.scan_layers = True
    config.train.remat = "none"
    config.log.every = 20
    config.eval.every = 100
    return config
