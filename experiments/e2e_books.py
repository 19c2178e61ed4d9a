r"""E2E on the GPT-2 that the two commands of `pretrain.py` make, for two cores.

    python experiments/method_comparison.py --config=experiments/e2e_books.py --config.data.dir=E2E --jobs=2 \
        --adapters=hut:rank=8,lora:rank=8 --rates=0.5,1.5,5,15 --seeds=0,1,2 --workdir=runs/e2e_books

A ninth of an epoch in batches of 8, judged by the loss of 800 rows of the development set at the start and at the end.
Old books are far from restaurants: what has targets acts on all dense layers. `E2E` is the folder of the official
files.
"""

from pathlib import Path

from ml_collections import ConfigDict

from hut_jax import cli

HERE = Path(__file__).parent
NEVER = 10**9


def get_config() -> ConfigDict:
    """The config; `config.data.dir` must be given where the public files cannot be downloaded."""
    config = cli.load_config_file(str(HERE.parent / "configs/e2e.py"))
    config.model = "runs/bases/gpt2/merged"
    config.data.length_multiple = 32
    config.adapter.targets = ("all-linear",)
    config.train.steps = 600
    config.train.warmup = 0.06
    config.eval.every = NEVER
    config.eval.batch_size = 64
    config.eval.max_examples = 800
    config.checkpoint.every = 100
    config.log.every = 20
    return config
