"""Predict labels with a run: python -m hut_jax.predict --workdir=runs/mrpc --input=pairs.tsv --output=labels.txt

The input has one text or one pair of texts on each line. It is a TSV file, with or without a line that names the
columns, or a JSONL file, such as {"sentence1": "...", "sentence2": "..."}. The output has one prediction on each line,
as a JSON object where its name ends in .jsonl.

Without --input the examples are those of the run's data, and --output is a folder. There is one file for each test
split, named as GLUE's test server expects, such as `MRPC.tsv`. With --split=validation there is one for each validation
split, and its scores are printed. The predictions are made with the run's best factors.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from hut_jax.config import RunConfig
from hut_jax.core import cli
from hut_jax.core.compilation import Program
from hut_jax.core.errors import UserError
from hut_jax.data.batching import Batch, Batches
from hut_jax.runs.batches import evaluation_batching
from hut_jax.runs.text_files import check_output, read_texts, write_labels
from hut_jax.runs.trained import TrainedRun, load_run, parse_with_run, run_parser, task_that
from hut_jax.runs.workdir import check_writable
from hut_jax.tasks import PredictsLabels
from hut_jax.training.log import show

Predict = Callable[[Sequence[tuple[str, ...]]], list[Any]]
"""The prediction for each text or pair: a class, or a value."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = run_parser("hut_jax.predict", __doc__ or "", verb="predict")
    parser.add_argument("--input", type=Path, metavar="FILE", help="a UTF-8 file, one text or pair on each line")
    parser.add_argument("--split", choices=("test", "validation"), help="the examples of the run's data; default: test")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="the file for the predictions, or a folder"
    )
    args, config = parse_with_run(parser, argv)
    if args.input is not None and args.split is not None:
        raise UserError("give either --input or --split: the predictions are for a file, or for a split of the data")
    task = task_that(PredictsLabels, args.workdir, config)

    def load() -> Predict:
        return make_predict(load_run(args.workdir, config, force=args.force), task)

    if args.input is not None:
        predict_file(task, args.input, args.output, load)
    else:
        predict_splits(task, config, args.split or "test", args.output, load)
    return 0


def predict_file(task: PredictsLabels, source: Path, output: Path, load: Callable[[], Predict]) -> None:
    """Write the predictions for the lines of a file.

    Args:
        task: the run's.
        source: the file.
        output: the file for the predictions.
        load: loads the run.

    Raises:
        UserError: a line holds no texts of the task, or the output cannot be written.
    """
    texts, header = read_texts(source, task.text_names)
    check_output(output)
    labels = [task.label(prediction) for prediction in load()(texts)]
    write_labels(output, labels, header=header)
    print(f"{len(labels):,} predictions are in {output}")


def predict_splits(
    task: PredictsLabels, config: RunConfig, kind: str, folder: Path, load: Callable[[], Predict]
) -> None:
    """Write the predictions for the test splits or the validation splits of the run's data.

    Args:
        task: the run's.
        config: the run's.
        kind: "test" or "validation".
        folder: of the files.
        load: loads the run.

    Raises:
        UserError: the data is missing or malformed, or the folder cannot be written.
    """
    splits = task.load_splits(config.data, kind)
    check_writable(folder, "the folder --output")
    predict = load()
    predictions = {split: predict([record.texts for record in records]) for split, records in splits.items()}
    for split, records in splits.items():
        path = task.write_predictions(folder, split, records, predictions[split])
        print(f"{len(records):,} predictions are in {path}")
    if kind == "validation":
        print(show(task.score_predictions(splits, predictions)))


def make_predict(run: TrainedRun, task: PredictsLabels) -> Predict:
    """A function that predicts with the merged model of a run.

    Texts are cut as in training, and to the length that the model takes.

    Raises:
        UserError: a merged parameter or a logit is not finite.
    """
    params = run.merge()

    @Program
    def predict_batch(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        logits: list[Array] = []

        def kept(*args: Any, **kwargs: Any) -> Array:
            logits.append(run.model.apply({"params": params}, *args, **kwargs))
            return logits[-1]

        return task.predict(kept, batch), jnp.array([jnp.isfinite(one).all() for one in logits]).all()

    section = run.config.data
    longest = min(section.longest, run.model.config.n_positions)
    data = replace(section, **{section.length_field: longest})

    def predict(texts: Sequence[tuple[str, ...]]) -> list[Any]:
        examples, cut = task.encode(texts, run.tokenizer, data)
        if cut:
            print(f"note: {cut:,} of {len(texts):,} examples were cut to {longest} tokens")
        batches = Batches(examples, evaluation_batching(run.config))
        rows = batches.plan(0)
        predicted = []
        for number, own in enumerate(rows):
            values, finite = predict_batch(params, batches[number])
            if not finite:  # the largest of logits that are no numbers would be the first class
                raise UserError(
                    "the model's logits are not finite: its factors are too large; train again with a lower "
                    "config.train.learning_rate"
                )
            predicted.append(np.asarray(values)[: len(own)])
        predictions = dict(zip(np.concatenate(rows).tolist(), np.concatenate(predicted).tolist(), strict=True))
        return [predictions[i] for i in range(len(examples))]

    return predict


script = cli.script(main)

if __name__ == "__main__":
    script()
