r"""Fine-tune GPT-2 or a decoder with HUT on E2E NLG, after the LoRA paper's recipe (arXiv 2106.09685, appendix D.3).

    python -m hut_jax.train --config=configs/e2e.py --workdir=runs/e2e

downloads gpt2-medium and the data. Where both are in folders, nothing is downloaded:

    python -m hut_jax.train --config=configs/e2e.py --config.model=FOLDER --config.tokenizer=FOLDER \
        --config.data.dir=FOLDER --workdir=runs/e2e

`--config.model` names any GPT-2 or decoder (docs/decoder.md). `--config=configs/e2e.py:smollm2` is a run of 600 steps
on SmolLM2-135M, with every linear layer as a target. `python -m experiments.bases.smollm2 --output=runs/smollm2` makes
the base.

What to expect: the run on gpt2-medium takes 26,290 steps, and 88 % of the positions hold real tokens. The score of
gpt2-medium has not been measured yet. On a small stand-in that has read old books, 900 steps at this learning rate take
the loss on 400 development rows from 5.255 to 2.354 (docs/method.md, "Learning rates").
"""

from ml_collections import ConfigDict

from hut_jax.config import default_config, set_transform
from hut_jax.core.errors import UserError, nearest

BASES = ("gpt2-medium", "smollm2")


def get_config(base: str = "gpt2-medium") -> ConfigDict:
    """The config; any field can be set on the command line, as in `--config.train.steps=100`.

    Raises:
        UserError: there is no such base.
    """
    if base not in BASES:
        raise UserError(f"no recipe for the base {base!r}; {nearest(base, BASES)}; --config.model=FOLDER takes any")
    config = default_config("e2e")  # the task: describe a restaurant, given its attributes
    config.model = "gpt2-medium"  # a hub name or a folder; any GPT-2 or decoder
    config.tokenizer = ""  # empty: the model's own
    config.dtype = "float32"  # of the base and its computation; "bfloat16" halves the memory. Factors are float32
    config.seed = 0  # the paper reports the mean over three

    config.data.dir = ""  # a folder with trainset.csv, devset.csv and testset_w_refs.csv; empty: download
    config.data.cache = ""  # where TFDS keeps the prepared data; empty: its own folder
    config.data.max_length = 512  # as in the paper; E2E's longest example has 142 GPT-2 tokens, so nothing is cut
    config.data.length_multiple = 16  # 88 % of the positions hold real tokens, in 14 shapes of batch to compile
    config.data.slot_multiple = 8  # a multiple for the positions whose logits are computed
    config.data.pack = 0  # 144: rows of 144 tokens, 2 or 3 examples in each, 97 % real tokens; set fewer rows, too

    set_transform(config, "hut", rank=8)  # the paper's LoRA has rank 4; HUT's forward cost hardly depends on the rank
    config.adapter.targets = ()  # the transformation's own: query and value, as for the paper's LoRA
    config.adapter.spread = "block"  # the reading of the formula: neighbours share a scale; docs/method.md has five
    config.adapter.scale = True  # gamma, at a tenth of the learning rate
    config.adapter.shift = True  # beta, at a tenth of the learning rate

    config.train.epochs = 5.0  # as the paper's
    config.train.steps = 0  # above 0: this many steps instead
    config.train.batch_size = 8  # as the paper's; a batch has examples of similar lengths, so it is padded little
    config.train.accumulate = 1  # 2 or 4 where eight examples do not fit in memory
    config.train.learning_rate = 0.0  # the transformation's own; HUT's is 2e-2 (docs/method.md, "Learning rates")
    config.train.warmup = 500.0  # steps, as the paper's
    config.train.decay = "linear"  # as the paper's
    config.train.weight_decay = 0.01  # as the paper's; here it pulls towards the base
    config.train.clip = 1.0  # a guard: HUT's learning rate is high, and a rare batch has a large gradient
    config.train.label_smoothing = 0.1  # as the paper's
    config.train.eps = 1e-6  # as the paper's
    config.train.dropout = True  # the model's own, 0.1 in GPT-2; as the paper's
    config.train.scan_layers = True  # compiles one layer for all

    config.log.every = 100  # steps between two lines of metrics.jsonl
    config.eval.every = 1000  # steps between two validations
    config.eval.batch_size = 32  # examples; no gradients are kept, so it may be larger than the training batch
    config.checkpoint.every = 1000  # steps that a kill may cost
    config.checkpoint.keep = 2  # the newest; if one is damaged, delete its folder to resume from the other
    if base == "smollm2":
        on_smollm2(config)
    return config


def on_smollm2(config: ConfigDict) -> None:
    """Change the fields for SmolLM2-135M on two cores."""
    config.model = "runs/smollm2"
    config.adapter.targets = ("all-linear",)
    config.train.steps = 600  # of 8 examples, a ninth of an epoch
    config.train.warmup = 0.06  # of all steps
    config.log.every = 20
    config.eval.every = 200
    config.eval.max_examples = 200  # of 4,672, since a validation takes as long as several steps
    config.eval.on_start = False  # the base's own loss on them is known: 3.347 (docs/smollm2.md)
    config.checkpoint.every = 100
