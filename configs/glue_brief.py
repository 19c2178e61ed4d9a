r"""A task of GLUE in minutes on two cores: two epochs, and only a part of the examples of the larger tasks.

    python -m hut_jax.train --config=configs/glue_brief.py:cola --config.model=MODEL --config.data.dir=GLUE \
        --workdir=runs/cola

This is a shorter recipe than that of `glue.py`, for the comparisons on small models (`minilm.py`, `roberta_books.py`).
The model is scored before the first step and after the last step only, so the score is not the best of several
evaluations during training.
"""

from pathlib import Path

from ml_collections import ConfigDict

from hut_jax.runs import config_files

EXAMPLES = {"sst2": 5000, "mrpc": 2000, "stsb": 2000}
"""How many training examples the larger tasks use; the other tasks use all."""
NEVER = 10**9


def get_config(task: str = "") -> ConfigDict:
    """The config of a task, such as "cola", or of a task and a size, such as "cola,smollm2".

    Raises:
        UserError: there is no such task.
    """
    config = config_files.load_config_file(f"{Path(__file__).with_name('glue.py')}:{task}")
    config.data.max_length = 128
    config.data.max_examples = EXAMPLES.get(config.task, 0)
    config.train.epochs = 2.0
    config.train.batch_size = 16
    config.eval.every = NEVER
    config.checkpoint.every = 150
    return config
