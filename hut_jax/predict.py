"""Write a GLUE run's predictions for the test server: python -m hut_jax.predict --workdir=runs/mrpc --output=out

There is one file for each test split of the data, named as the server expects, such as `MRPC.tsv`. The predictions are
made with the run's best factors.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hut_jax.core import cli
from hut_jax.data.batching import Batches, Examples
from hut_jax.runs.batches import evaluation_batching
from hut_jax.runs.trained import TrainedRun, load_run, read_trained_config, task_that
from hut_jax.tasks import PredictsLabels


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.predict", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="the folder of a GLUE run of hut_jax.train")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder for the files")
    parser.add_argument("--force", action="store_true", help="predict even if the base is not the one trained on")
    args = parser.parse_args(argv)

    workdir = Path(args.workdir)
    config = read_trained_config(workdir)
    task = task_that(PredictsLabels, workdir, config)
    tests = task.load_tests(config.data)
    run = load_run(workdir, config, force=args.force)
    for split, records in tests.items():
        examples = task.encode(records, run.tokenizer, config.data)
        path = task.write_predictions(args.output, split, records, predict(run, task, examples))
        print(f"{len(records):,} predictions are in {path}")
    return 0


def predict(run: TrainedRun, task: PredictsLabels, examples: Examples) -> list[Any]:
    """The merged model's prediction for each example: a class, or a value."""
    apply = partial(run.model.apply, {"params": run.merge()})
    predict_batch = jax.jit(lambda batch: task.predict(apply, batch))
    batches = Batches(examples, evaluation_batching(run.config))
    rows = batches.plan(0)
    predicted = [np.asarray(predict_batch(batches[i]))[: len(rows[i])] for i in range(len(batches))]
    predictions = dict(zip(np.concatenate(rows).tolist(), np.concatenate(predicted).tolist(), strict=True))
    return [predictions[i] for i in range(len(examples))]


if __name__ == "__main__":
    cli.run(main)
