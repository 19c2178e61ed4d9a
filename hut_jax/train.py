"""Fine-tune a model: python -m hut_jax.train --config=configs/e2e.py --workdir=runs/e2e

The same command resumes a run that was stopped. During a run the workdir holds `config.json`, `metrics.jsonl`,
`tensorboard/`, `checkpoints/`, and the best factors in `adapter/`. At its end the run writes `result.json`.
"""

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Array, PyTree

from hut_jax.adapters.files import CONFIG_FILE, check_base, save_adapter
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.config import RunConfig, to_json
from hut_jax.core import cli, trees
from hut_jax.core.files import write_json, write_text
from hut_jax.data.batching import batch_dataset
from hut_jax.data.stream import describe_training, training_batches
from hut_jax.models.hub.model_files import listing
from hut_jax.parallel import processes
from hut_jax.runs import config_files
from hut_jax.runs.batches import evaluation_batching, training_batching
from hut_jax.runs.factors import init_factors
from hut_jax.runs.placement import Placement, mesh_for, place
from hut_jax.runs.result import RESULT, make_result, read_kept
from hut_jax.runs.run import Run, multipliers, prepare
from hut_jax.runs.workdir import ADAPTER, CHECKPOINTS, CONFIG, check_workdir, use_workdir
from hut_jax.tasks import TaskData
from hut_jax.training.checkpoint import Checkpoints
from hut_jax.training.evaluation import Evaluation
from hut_jax.training.log import MetricsLog, NoLog, show
from hut_jax.training.loop import Plan, Trainer, Watch
from hut_jax.training.optimizer import learning_rates, make_optimizer, warmup_steps
from hut_jax.training.progress import ProgressBar
from hut_jax.training.steps import Forward, Steps, state_shardings

Describe = Callable[[Run, TaskData, Plan, Placement], None]


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.train", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="the folder of the run")
    processes.add_arguments(parser)
    args, config = config_files.parse_with_config(parser, argv)
    processes.join(args)
    result = train(config, Path(args.workdir), command=" ".join([parser.prog, *map(shlex.quote, argv)]))
    best = {name: result["best"][name] for name in result["metrics"]}
    print(
        f"done: validation {show(result['metrics'])}; best at step {result['best']['step']}: {show(best)}\n"
        f"{result['trainable']:,} parameters trained, {result['adapter_bytes']:,} bytes in {args.workdir}/{ADAPTER}; "
        f"all figures in {args.workdir}/{RESULT}"
    )
    return 0


def train(
    config: RunConfig,
    workdir: Path,
    *,
    describe: Describe | None = None,
    open_bar: Callable[[int, int, int], ProgressBar] = ProgressBar,
    command: str = "",
) -> dict[str, Any]:
    """Train the run that the config describes, from its start or from its last checkpoint.

    Args:
        config: the run's.
        workdir: the run's folder.
        describe: prints what the run is, before it starts; default: `print_description`.
        open_bar: opens the progress line; see `Trainer`.
        command: what the user typed, for `result.json`; "" if it was no command.

    Returns:
        The contents of `result.json`.

    Raises:
        UserError: something in the config, the data, the model or the workdir is wrong.
        Diverged: a loss, a gradient or a factor is not finite.
        Interrupted: Ctrl-C or SIGTERM; the run was saved.
    """
    processes.on_first(lambda: check_workdir(workdir, config))
    mesh = mesh_for(config)
    with processes.first_alone("data"):
        run, data = prepare(config)
    placement = place(run, mesh)
    plan = make_plan(config, len(data.train))
    own = multipliers(config, run.adapter, run.shapes)
    optimizer = make_optimizer(config.train, plan.steps, own)
    train_loss = run.task.loss(run.tokenizer, config.train.label_smoothing)
    (describe or print_description)(run, data, plan, placement)

    params = run.load_base(placement.params)
    if (workdir / ADAPTER / CONFIG_FILE).exists():  # a run killed before its first evaluation leaves an empty folder
        check_base(workdir / ADAPTER, params, name=config.model)
    factors = processes.put_tree(init_factors(run, params), placement.factors)
    base = fingerprint(params)

    forward = placement.run(partial(run.adapter.apply, run.model, shards=placement.parts))
    steps = Steps(
        forward,
        placement.run(train_loss),
        optimizer,
        dropout=config.train.dropout,
        seed=config.seed,
        rates={"learning_rate": config.train.learning_rate, "multipliers": own},
        place=placement.batch,
        shardings=state_shardings(optimizer, factors, placement.factors),
    )
    batches = training_batches(data.train, training_batching(config), placement.share)

    def save_best(factors: PyTree[Array]) -> None:
        whole = processes.fetch(factors)
        names: dict[str, Any] = {"base_name": config.model, "base_fingerprint": base}
        processes.on_first(lambda: save_adapter(workdir / ADAPTER, run.adapter, whole, **names))

    with ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(use_workdir(workdir)))
        processes.on_first(lambda: write_text(workdir / CONFIG, to_json(config)))
        checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep)
        stack.callback(checkpoints.close)
        trainer = Trainer(
            steps,
            params,
            iter(batches),
            plan,
            evaluate=make_evaluate(run, data, placement, forward, params),
            signed_score=run.task.signed_score,
            save_best=save_best,
            learning_rate=learning_rates(config.train, plan.steps),
            checkpoints=checkpoints,
            open_log=partial(MetricsLog, workdir) if processes.is_first() else NoLog,
            open_bar=open_bar,
        )
        done = trainer.fit(steps.init(factors))
        result = make_result(run, data, done, base, workdir, command)
        processes.on_first(lambda: write_json(workdir / RESULT, read_kept(workdir) | result))
    return result


def make_plan(config: RunConfig, examples: int) -> Plan:
    """How long the run is, and how often it logs, evaluates and saves.

    Args:
        config: the run's.
        examples: the number of training examples.
    """
    per_epoch = math.ceil(examples / config.train.batch_size)
    return Plan(
        steps=config.train.steps or max(1, round(per_epoch * config.train.epochs)),
        accumulate=config.train.accumulate,
        log_every=config.log.every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        eval_on_start=config.eval.on_start,
    )


def make_evaluate(
    run: Run, data: TaskData, placement: Placement, forward: Forward, params: PyTree[Array]
) -> Callable[[PyTree[Array], Watch], dict[str, float]]:
    """The evaluation of factors on all validation splits: see `Trainer`."""
    loss = placement.run(run.task.loss(run.tokenizer))
    evaluation = Evaluation(forward, loss, placement.batch, whole=placement.whole)
    batching = evaluation_batching(run.config)
    splits = {name: list(batch_dataset(split, batching, placement.share)) for name, split in data.validation.items()}

    def evaluate(factors: PyTree[Array], watch: Watch) -> dict[str, float]:
        evaluated = {name: evaluation(params, factors, watch(split)) for name, split in splits.items()}
        for one in evaluated.values():
            if not math.isfinite(one.loss):  # its predictions are not finite, either
                return {"loss": one.loss}
        return run.task.metrics(evaluated)

    return evaluate


def print_description(run: Run, data: TaskData, plan: Plan, placement: Placement) -> None:
    """Print the trainable parameters, the data, the padding, the devices, and notes for the user."""
    examples, unit, padding = describe_training(data.train, training_batching(run.config))
    validating = sum(map(len, data.validation.values()))
    print(run.adapter.report(run.shapes))
    print(
        f"{examples}, {validating:,} validation examples; {plan.steps:,} steps of {run.config.train.batch_size} "
        f"{unit}{padding}"
    )
    if run.new_parameters:
        names = listing(map(trees.show, run.new_parameters))
        print(f"a new head trains too, since {run.config.model} has none that fits: {names}")
    for note in data.notes:
        print(f"note: {note}")
    asked, warmup = run.config.train.warmup, warmup_steps(run.config.train, plan.steps)
    if asked >= 1 and warmup != int(asked):
        print(f"note: config.train.warmup is {asked:.0f}, but the run has {plan.steps} steps: it warms up for {warmup}")
    if placement.mesh.size > 1:
        print(placement.describe())
    sys.stdout.flush()


script = cli.script(main)

if __name__ == "__main__":
    script()
