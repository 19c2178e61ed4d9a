"""Train as configs/quickstart.py says, then let base and trained model describe restaurants that are new to both.

python -m hut_jax.quickstart, or make quickstart
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hut_jax.adapters.files import size_on_disk
from hut_jax.core import cli
from hut_jax.core.assets import here
from hut_jax.core.files import write_json
from hut_jax.data.batching import batch_dataset
from hut_jax.data.e2e.csv_files import Record
from hut_jax.data.e2e.dataset import encode_e2e, encode_prompts, load_e2e, references
from hut_jax.data.e2e.restaurants import score_facts, wrong_slots
from hut_jax.generation import Constraints, Greedy, generate
from hut_jax.metrics.e2e.bleu import bleu
from hut_jax.metrics.e2e.mteval import count_references, match_outputs
from hut_jax.runs import config_files
from hut_jax.runs.batches import evaluation_batching
from hut_jax.runs.placement import Placement
from hut_jax.runs.result import RESULT
from hut_jax.runs.run import Run
from hut_jax.runs.trained import TrainedRun, load_run
from hut_jax.runs.workdir import ADAPTER
from hut_jax.tasks import TaskData
from hut_jax.train import train
from hut_jax.training.log import append_metrics
from hut_jax.training.loop import Plan
from hut_jax.training.progress import ProgressBar

GOAL = {"names": 0.9, "slots": 0.8}
"""The shares that the trained model must reach, and the base must not."""

EXAMPLES = 3
NEW_TOKENS = 80


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code: 1 if the goal was not reached."""
    began = time.perf_counter()
    parser = cli.Parser("hut_jax.quickstart", __doc__ or "")
    parser.add_argument("--workdir", default="runs/quickstart", metavar="FOLDER", help="the folder of the run")
    args, config = config_files.parse_with_config(parser, argv, default="quickstart")
    workdir = Path(args.workdir)
    command = " ".join([parser.prog, *map(shlex.quote, argv)])
    result = train(config, workdir, describe=describe, open_bar=OneLine, command=command)
    run = load_run(workdir)
    test = load_e2e(here(config.data.dir), cache_dir=config.data.cache, splits=["test"])["test"]
    answers = compare(run, test)
    figures = {name: one.figures for name, one in answers.items()}
    reached = reaches_goal(*figures.values())
    kept = {"models": {name: asdict(one) for name, one in figures.items()}, "goal": GOAL, "reached": reached}
    write_json(workdir / RESULT, result | {"quickstart": kept})
    for name, one in figures.items():
        append_metrics(workdir, result["steps"], "test", {"model": name, **asdict(one)})

    mrs = list(references(test))
    print(f"\n{len(mrs)} restaurants that neither the base nor the training has seen:\n\n{table(figures)}")
    for i, mr in enumerate(mrs[:EXAMPLES]):
        print(f"\n{mr}")
        for name, given in answers.items():
            print(f"{name:>6}: {given.texts[i]}\n{'':8}{mark(mr, given.texts[i])}")
    print(
        f"\nTrained for {result['seconds']:.0f} s, {time.perf_counter() - began:.0f} s in all, "
        f"on {os.cpu_count()} cores.\n"
        f"{workdir} holds adapter/ ({size_on_disk(workdir / ADAPTER):,} bytes), result.json, metrics.jsonl, "
        "tensorboard/ and checkpoints/.\n"
        f"Next: {sys.executable} -m hut_jax.train --config=quickstart --config.adapter.name=lora "
        "--workdir=runs/lora"
    )
    if not reached:
        print(
            f"The goal was missed: {GOAL['names']:.0%} of names and {GOAL['slots']:.0%} of slots, neither by the base."
        )
    return 0 if reached else 1


@dataclass(frozen=True)
class Figures:
    """What a model achieves on the test split.

    Attributes:
        perplexity: of the human texts.
        names: the share of its texts that name the right restaurant.
        slots: the share of slots that its texts have right.
        bleu: BLEU of its texts, 0 to 1.
    """

    perplexity: float
    names: float
    slots: float
    bleu: float


@dataclass(frozen=True)
class Answer:
    """A model's text for each meaning representation of the test split, and its figures."""

    texts: list[str]
    figures: Figures


def compare(run: TrainedRun, test: Sequence[Record]) -> dict[str, Answer]:
    """Let the base and the trained model describe the restaurants of the test split, in this order.

    Args:
        run: the finished run.
        test: the test split.
    """
    tokenizer, texts = run.tokenizer, references(test)
    mrs = list(texts)
    sequences = encode_e2e(test, tokenizer, run.config.data.max_length).sequences
    batches = list(batch_dataset(sequences, evaluation_batching(run.config)))
    prompts, counted = encode_prompts(mrs, tokenizer), count_references(list(texts.values()))
    constraints, evaluate = Constraints(NEW_TOKENS, tokenizer.eos_id), run.plain_evaluation()
    answers = {}
    for name, params in {"base": run.params, type(run.adapter.transform).__name__: run.merge()}.items():
        continuations = generate(run.model, params, prompts, Greedy(), constraints)
        said = [" ".join(tokenizer.decode(one.tokens).split()) for one in continuations]
        facts, words = score_facts(mrs, said), bleu(match_outputs(said, counted)).score()
        perplexity = math.exp(evaluate(params, batches).loss)
        answers[name] = Answer(said, Figures(perplexity, facts.names, facts.slots, words))
    return answers


def reaches_goal(base: Figures, trained: Figures) -> bool:
    """Whether the trained model does the task, and the base does not."""
    reached = [{goal: getattr(figures, goal) >= share for goal, share in GOAL.items()} for figures in (base, trained)]
    return all(reached[1].values()) and not any(reached[0].values())


def table(figures: Mapping[str, Figures]) -> str:
    """A column for each model."""
    rows = [
        ("", *(f"{name:>9}" for name in figures)),
        ("perplexity", *(f"{one.perplexity:9.2f}" for one in figures.values())),
        ("names right", *(f"{one.names:9.1%}" for one in figures.values())),
        ("slots right", *(f"{one.slots:9.1%}" for one in figures.values())),
        ("BLEU", *(f"{one.bleu:9.3f}" for one in figures.values())),
    ]
    return "\n".join(f"{label:<13}{''.join(cells)}" for label, *cells in rows)


def mark(mr: str, text: str) -> str:
    """A line that says which slots of the text are wrong."""
    wrong = wrong_slots(mr, text)
    return f"✗ wrong: {', '.join(wrong)}" if wrong else "✓ all right"


def describe(run: Run, data: TaskData, plan: Plan, _: Placement) -> None:
    """Print what trains, and on what."""
    count, transform = run.adapter.count(run.shapes), run.adapter.transform
    rank = f" of rank {transform.rank}" if hasattr(transform, "rank") else ""
    print(
        f"{type(transform).__name__}{rank}: {count.trainable:,} of {count.total:,} parameters "
        f"train ({count.percent:.2f} %), on {len(data.train):,} texts in {plan.steps} steps",
        flush=True,
    )


class OneLine(ProgressBar):
    """A progress line that is alone on the terminal."""

    def show(self, values: Mapping[str, float]) -> None:
        """Show the loss."""
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}")

    def show_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""


if __name__ == "__main__":
    cli.run(main)
