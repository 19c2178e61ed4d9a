"""Write a GLUE run's predictions for the test server: python -m hut_jax.predict --workdir=runs/mrpc --output=out

The files are those that the server wants, such as `MRPC.tsv`, one for each test split of the data. The factors are the
run's best.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import jax
import numpy as np

from hut_jax.adapters.files import load_adapter, read_description
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batches
from hut_jax.data.encoder_tokenizer import EncoderTokenizer
from hut_jax.data.glue.dataset import encode_glue, load_glue
from hut_jax.data.glue.predictions import write_predictions
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.runs.run import anywhere, batching, load_any_tokenizer, load_base
from hut_jax.runs.workdir import ADAPTER, read_config
from hut_jax.tasks.glue import predict


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.predict", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="of a run of hut_jax.train on GLUE")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the files go")
    parser.add_argument("--force", action="store_true", help="predict even if the base is not the one trained on")
    args = parser.parse_args(argv)
    config = read_config(Path(args.workdir))
    if config.task not in GLUE_TASKS:
        raise UserError(f"the run in {args.workdir} is of the task {config.task!r}, which is none of GLUE")
    task = GLUE_TASKS[config.task]
    folder = Path(args.workdir) / ADAPTER
    read_description(folder)  # for its errors, before the weights are read
    data = load_glue(task, config.data.dir, cache_dir=config.data.cache)
    splits = [split for split in task.submission if split in data.splits]
    if not splits:
        raise UserError(
            f"{config.data.dir} has no test file of {task.name}: "
            + " or ".join(f"{task.folder}/{task.files[split]}" for split in task.submission)
        )
    model, params = load_base(anywhere(config))
    adapter, factors = load_adapter(folder, params, name=config.model, force=args.force)
    tokenizer = cast(EncoderTokenizer, load_any_tokenizer(config, model))  # as every model with this head has it
    apply = partial(model.apply, {"params": adapter.merge(params, factors)})
    run = jax.jit(lambda batch: predict(task, apply, batch))
    for split in splits:
        examples = encode_glue(task, data.splits[split], tokenizer, config.data.max_length).examples
        batches = Batches(examples, batching(config).for_evaluation(config.eval.batch_size))
        predictions = np.zeros(len(examples), np.float32 if task.regression else np.int32)
        for place, rows in enumerate(batches.plan(0)):
            predictions[rows] = np.asarray(run(batches[place]))[: len(rows)]
        path = write_predictions(args.output, task, split, data.splits[split], predictions.tolist())
        print(f"{len(examples):,} predictions are in {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
