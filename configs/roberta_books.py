r"""A task of GLUE on the RoBERTa that `pretrain.py` makes: `--config=configs/roberta_books.py:sst2`.

    python -m experiments.method_comparison --config=configs/roberta_books.py:sst2 --config.data.dir=GLUE \
        --adapters=hut:rank=8,lora:rank=8 --rates=0.15,0.5,1.5,5 --seeds=0,1,2 --workdir=runs/roberta_books_sst2

Everything but the model is as in `glue_brief.py`, so that this base can be compared with MiniLM. `GLUE` is the folder
of the tasks' files. `--config.model=runs/bases/roberta_50m/merged` takes the larger base.
"""

from pathlib import Path

from ml_collections import ConfigDict

from hut_jax.runs import config_files


def get_config(task: str = "") -> ConfigDict:
    """The config of a task, such as "sst2".

    Raises:
        UserError: there is no such task.
    """
    config = config_files.load_config_file(f"{Path(__file__).with_name('glue_brief.py')}:{task}")
    config.model = "runs/bases/roberta/merged"
    return config
