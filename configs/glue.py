"""Fine-tune RoBERTa, BERT or a decoder with HUT on a task of GLUE, after the LoRA paper's recipes (2106.09685, D.1).

    python -m hut_jax.train --config=configs/glue.py:mrpc --config.data.dir=GLUE --workdir=runs/mrpc
    python -m hut_jax.train --config=configs/glue.py:mrpc,large --config.data.dir=GLUE --workdir=runs/mrpc-large
    python -m hut_jax.train --config=configs/glue.py:cola,smollm2 --config.data.dir=GLUE --workdir=runs/cola-smollm2

The task stands after the file's name and is not set by `--config.task`, because each task has its own batch size,
epochs and length. `GLUE` is the folder that holds the official `CoLA/`, `SST-2/` and so on; without it, TFDS downloads
`glue/<task>`. `--config.model` names any RoBERTa, BERT or decoder. The third command's base is SmolLM2-135M, which
`python -m experiments.bases.smollm2 --output=runs/smollm2` makes.

MRPC, RTE and STS-B gain from training on MNLI first. The paper starts them from MNLI's adapter. Here
`--config.adapter.start=runs/mnli/adapter` does that. The head is always new.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform
from hut_jax.core.errors import UserError, nearest
from hut_jax.data.glue.tasks import GLUE_TASKS


class Recipe(NamedTuple):
    """The fields that differ from task to task."""

    batch_size: int
    epochs: float
    max_length: int


# The columns of LoRA in the paper's table 9. WNLI is not in it and gets the recipe of RTE, the most similar task.
BASE = {
    "mnli": Recipe(16, 30, 512),
    "sst2": Recipe(16, 60, 512),
    "mrpc": Recipe(16, 30, 512),
    "cola": Recipe(32, 80, 512),
    "qnli": Recipe(32, 25, 512),
    "qqp": Recipe(16, 25, 512),
    "rte": Recipe(32, 80, 512),
    "stsb": Recipe(16, 40, 512),
    "wnli": Recipe(32, 80, 512),
}
LARGE = {
    "mnli": Recipe(4, 10, 128),
    "sst2": Recipe(4, 10, 128),
    "mrpc": Recipe(4, 20, 512),
    "cola": Recipe(4, 20, 128),
    "qnli": Recipe(4, 10, 512),
    "qqp": Recipe(4, 20, 512),
    "rte": Recipe(8, 20, 512),
    "stsb": Recipe(8, 30, 512),
    "wnli": Recipe(4, 20, 512),
}
SIZES = {"base": BASE, "large": LARGE, "smollm2": BASE}
MODELS = {"base": "roberta-base", "large": "roberta-large", "smollm2": "runs/smollm2"}


def get_config(argument: str = "") -> ConfigDict:
    """The config of a task, "mrpc", or of a task and a size, "mrpc,large" or "mrpc,smollm2".

    Raises:
        UserError: there is no such task or size.
    """
    if not argument:
        raise UserError(f"name the task behind the config: glue:mrpc, or one of {', '.join(GLUE_TASKS)}")
    task, _, size = argument.partition(",")
    size = size or "base"
    if task not in GLUE_TASKS:
        raise UserError(f"no task {task!r} in GLUE; {nearest(task, GLUE_TASKS)}")
    if size not in SIZES:
        raise UserError(f"no recipe for the size {size!r}; {nearest(size, SIZES)}")
    recipe = SIZES[size][task]

    config = default_config(task)
    config.model = MODELS[size]  # a hub name or a folder; any RoBERTa, BERT or decoder
    config.seed = 0  # the paper reports the median of five

    config.data.max_length = recipe.max_length  # tokens of an example; in longer ones the longer text is cut
    config.data.length_multiple = 16  # a batch has examples of similar lengths, so it is padded little

    set_transform(config, "hut", rank=8)  # as the paper's LoRA
    config.adapter.targets = ()  # the transformation's own: query and value, as for the paper's LoRA
    config.adapter.also_train = ("^(pooler|classifier)",)  # the new head, which in BERT includes the pooler

    config.train.epochs = recipe.epochs
    config.train.batch_size = recipe.batch_size
    config.train.learning_rate = 1e-2  # the best for HUT on MiniLM (docs/glue.md); not swept on RoBERTa
    config.train.also_train_learning_rate = 1e-3  # the head's
    config.train.warmup = 0.06  # of all steps, as the paper's
    config.train.decay = "linear"  # as the paper's
    config.train.weight_decay = 0.01
    config.train.clip = 1.0
    config.train.dropout = True  # the model's own
    config.train.scan_layers = size == "smollm2"  # 30 layers, of which one is compiled

    config.log.every = 50
    config.eval.every = 500  # steps between two validations; the task's score chooses the best factors
    config.eval.batch_size = 64
    config.checkpoint.every = 500
    return config
