r"""Teach a small GPT-2 to copy from its context, in three lessons. The quickstart's base was made like this.

    python -m hut_jax.data.train_tokenizer --text=BOOKS --vocab_size=2048 --max_bytes=4000000 --output=TOKENIZER
    python -m hut_jax.train --config=configs/lm.py --config.data.text=BOOKS --workdir=runs/lm
    python -m hut_jax.merge --workdir=runs/lm --output=runs/lm/merged --dtype=bfloat16
    python -m hut_jax.data.text.copying --text=BOOKS --tokenizer=TOKENIZER --output=runs/copying

makes a model of English and the texts of the lessons. Then, for LESSON words, phrases and records, in this order,

    python -m hut_jax.train --config=configs/copying.py:LESSON --config.model=BEFORE --workdir=runs/LESSON
    python -m hut_jax.merge --workdir=runs/LESSON --output=runs/LESSON/merged

where BEFORE is the merged model of the lesson before, at first runs/lm/merged. The last merge has `--dtype=bfloat16`,
and its output is `assets/tiny`. The lessons take 40 minutes on 2 cores of an AMD EPYC with AVX-512.

BOOKS is a text of 95 MB: 211 books in the public domain. The texts of the lessons hold words and pages of the books,
and no restaurants. TOKENIZER is now assets/tiny.
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
