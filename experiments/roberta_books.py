r"""A task of GLUE on the RoBERTa that `pretrain.py` makes: `--config=experiments/roberta_books.py:sst2`.

    python experiments/method_comparison.py --config=experiments/roberta_books.py:sst2 --config.data.dir=GLUE \
        --adapters=hut:rank=8,lora:rank=8 --rates=0.15,0.5,1.5,5 --seeds=0,1,2 --workdir=runs/roberta_books/sst2

As long as on MiniLM (`minilm.py`), so that the bases can be compared. `GLUE` is the folder of the tasks' files. The
larger base is taken by `--config.model=runs/bases/roberta_50m/merged`.
"""

from ml_collections import ConfigDict

from experiments.minilm import briefly


def get_config(task: str = "") -> ConfigDict:
    """The task's config.

    Raises:
        UserError: there is no such task.
    """
    config = briefly(task)
    config.model = "runs/bases/roberta/merged"
    return config
