"""Fine-tune a model: python -m hut_jax.train --config=configs/e2e.py --workdir=runs/e2e

The same command goes on with a run that was stopped. The workdir then holds `config.json`, `metrics.jsonl`,
`tensorboard/`, `checkpoints/`, the best factors in `adapter/`, and at the end `result.json`.
"""

import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

import hut_jax
from hut_jax.adapters.files import CONFIG_FILE, check_base, save_adapter, size_on_disk
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.adapters.sharding import factor_specs
from hut_jax.config import resolve, to_json
from hut_jax.core import cli
from hut_jax.core.files import write_json, write_text
from hut_jax.data.batching import Batches, batch_dataset
from hut_jax.parallel import processes
from hut_jax.parallel.activations import run_on
from hut_jax.parallel.mesh import (
    TRANSFORMER,
    batch_parts,
    check_batch,
    check_heads,
    describe,
    make_mesh,
    own_share,
    param_specs,
    place_batch,
    shardings,
)
from hut_jax.runs import config_files
from hut_jax.runs.machine import device_name, peak_bytes
from hut_jax.runs.run import Parts, batching, init_factors, load_base, make_parts, rates
from hut_jax.runs.workdir import ADAPTER, CHECKPOINTS, CONFIG, RESULT, check_workdir, use_workdir
from hut_jax.training.checkpoint import Checkpoints
from hut_jax.training.log import MetricsLog, NoLog
from hut_jax.training.loop import Fit, Plan, Watch, fit
from hut_jax.training.optimizer import make_optimizer, warmup_updates
from hut_jax.training.steps import Evaluation, Steps, state_shardings


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.train", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="where the run is kept")
    processes.add_arguments(parser)
    args, config = config_files.parse_with_config(parser, argv)
    processes.join(args)
    result = train(config, Path(args.workdir))
    print(
        f"done: validation {_show(result['metrics'])}; best at update {result['best']['step']}: "
        f"{_show({name: result['best'][name] for name in result['metrics']})}\n"
        f"{result['trainable']:,} numbers trained, {result['adapter_bytes']:,} bytes in {args.workdir}/{ADAPTER}; "
        f"all figures in {args.workdir}/{RESULT}"
    )
    return 0


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The run that the config describes, from its start or from where it was; returns what `result.json` holds.

    Raises:
        UserError: something in the config, the data, the model or the workdir is wrong.
        Diverged: a loss, a gradient or a factor is not finite.
        Interrupted: Ctrl-C or SIGTERM; the run was saved.
    """
    config = resolve(config)
    processes.on_first(lambda: check_workdir(workdir, config))
    mesh = make_mesh(**config.mesh)
    check_batch("config.train.batch_size / config.train.accumulate", batching(config).batch_size, mesh)
    check_batch("config.eval.batch_size", config.eval.batch_size, mesh)
    with processes.first_alone("data"):
        parts = make_parts(config)
    check_heads(parts.model.config.heads, mesh)
    plan = make_plan(config, parts)
    specs = param_specs(parts.shapes, TRANSFORMER, mesh)
    lie = shardings(mesh, factor_specs(parts.adapter.sites(parts.shapes), specs))
    optimizer = make_optimizer(config.train, plan.steps, rates(config, parts.adapter, parts.shapes))
    _describe(config, parts, plan)
    if mesh.size > 1:
        print(describe(mesh, specs))
    model, params = load_base(config, shardings(mesh, specs))
    if (workdir / ADAPTER / CONFIG_FILE).exists():  # a run killed on its way to it leaves an empty folder
        check_base(workdir / ADAPTER, params, name=config.model)
    factors = processes.put_tree(init_factors(config, parts.adapter, model, params), lie)
    base = fingerprint(params)

    forward = run_on(mesh, partial(parts.adapter.apply, model, shards=batch_parts(mesh)))
    loss = run_on(mesh, parts.task.loss)
    share = own_share(mesh)
    place = partial(place_batch, mesh, share=share)
    evaluation = Evaluation(forward, loss, place, whole=NamedSharding(mesh, PartitionSpec()))
    steps = Steps(
        forward,
        loss,
        optimizer,
        label_smoothing=config.train.label_smoothing,
        dropout=config.train.dropout,
        seed=config.seed,
        place=place,
        shardings=state_shardings(optimizer, factors, lie),
    )
    batches = batch_dataset(parts.task.train, batching(config), share)
    evaluated = batching(config).for_evaluation(config.eval.batch_size)
    validation = {name: list(batch_dataset(split, evaluated, share)) for name, split in parts.task.validation.items()}

    def evaluate(factors: PyTree[Array], watch: Watch) -> dict[str, float]:
        judged = {name: evaluation(params, factors, watch(split)) for name, split in validation.items()}
        for one in judged.values():
            if not math.isfinite(one.loss):  # its predictions are no numbers, either
                return {"loss": one.loss}
        return parts.task.metrics(judged)

    def save_best(factors: PyTree[Array]) -> None:
        names = {"base_name": config.model, "base_fingerprint": base}
        processes.on_first(lambda: save_adapter(workdir / ADAPTER, parts.adapter, factors, **names))

    with ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(use_workdir(workdir)))
        processes.on_first(lambda: write_text(workdir / CONFIG, to_json(config)))
        checkpoints = Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep)
        try:
            done = fit(
                steps,
                steps.init(factors),
                params,
                iter(batches.to_iter_dataset()),
                plan=plan,
                evaluate=evaluate,
                score=parts.task.score,
                on_best=lambda factors, _: save_best(processes.fetch(factors)),
                checkpoints=checkpoints,
                log=partial(MetricsLog, workdir) if processes.is_first() else NoLog,
            )
        finally:
            checkpoints.close()
        kept = _kept(workdir)
        result = _result(config, parts, plan, done, workdir, base)
        if not done.updates:  # nothing was left to train: what training took, and on what, is known from when it did
            result |= {name: kept[name] for name in ("device", "platform", "versions", "peak_bytes") if name in kept}
        processes.on_first(lambda: write_json(workdir / RESULT, kept | result))
    return result


def make_plan(config: ConfigDict, parts: Parts) -> Plan:
    """How many updates, and what happens how often."""
    examples = len(parts.task.train)
    per_epoch = math.ceil(examples / config.train.batch_size)
    return Plan(
        steps=config.train.steps or max(1, round(per_epoch * config.train.epochs)),
        accumulate=config.train.accumulate,
        log_every=config.log.every,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
    )


def _describe(config: ConfigDict, parts: Parts, plan: Plan) -> None:
    padding = Batches(parts.task.train, batching(config)).report()
    print(parts.adapter.report(parts.shapes))
    judged = sum(map(len, parts.task.validation.values()))
    print(
        f"{len(parts.task.train):,} examples to learn from, {judged:,} to validate; {plan.steps:,} updates of "
        f"{config.train.batch_size}; {100 * padding.real_tokens:.0f} % of the positions hold real tokens, in "
        f"{len(padding.shapes)} shapes of batch"
    )
    for note in _notes(config, parts, plan):
        print(f"note: {note}")
    sys.stdout.flush()


def _notes(config: ConfigDict, parts: Parts, plan: Plan) -> list[str]:
    warmup = warmup_updates(config.train, plan.steps)
    if config.train.warmup >= 1 and warmup != int(config.train.warmup):
        cut = f"config.train.warmup, {config.train.warmup:.0f}, does not fit {plan.steps} updates: {warmup} warm up"
        return [*parts.task.notes, cut]
    return [*parts.task.notes]


def _result(config: ConfigDict, parts: Parts, plan: Plan, done: Fit, workdir: Path, base: str) -> dict[str, Any]:
    count = parts.adapter.count(parts.shapes)
    libraries = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "task": config.task,
        "steps": plan.steps,
        "metrics": done.last,
        "best": done.best,
        "headline": parts.task.headline,
        "maximize": parts.task.maximize,
        "mean_length": float(parts.task.train.inputs.mean()),
        "seconds": round(done.seconds, 3),
        "trainable": count.trainable,
        "total": count.total,
        "percent": count.percent,
        "adapter_bytes": size_on_disk(workdir / ADAPTER),
        "peak_bytes": peak_bytes(),
        "base": {"name": config.model, "fingerprint": base},
        "device": device_name(),
        "platform": platform.platform(),
        "versions": {"hut_jax": hut_jax.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in libraries},
    }


def _kept(workdir: Path) -> dict[str, Any]:
    """What the file holds of a run that had ended before, such as an evaluation's figures."""
    try:
        return dict(json.loads((workdir / RESULT).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # none yet, or damaged: what it had is made again
        return {}


def _show(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


if __name__ == "__main__":
    cli.run(main)
