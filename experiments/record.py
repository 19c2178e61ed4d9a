"""What an experiment keeps of a run: `record.json` in the run's folder, with all that tables and pictures need."""

import json
import os
import re
import statistics
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.forgetting import losses
from hut_jax.config import RunConfig, flatten_config
from hut_jax.core.errors import UserError
from hut_jax.core.files import lines_of, read_json, read_text, write_json
from hut_jax.core.sections import build, section
from hut_jax.runs.costs import adapter_cost, make_work
from hut_jax.training.log import read_metrics

RECORD = "record.json"
MOVEMENT = "movement.json"
EVALUATION, TEXTS = "evaluation.json", "test_outputs.txt"
"""What `hut_jax.evaluate` leaves in a run's folder."""


@section
class Record:
    """The figures of a run.

    Attributes:
        name: of the run within its study: adapter, multiple of the learning rate, seed.
        method: the transformation, or `head` where only the new head trains.
        rank: of the adapter; None where the method has none.
        settings: what else was set, such as "spread=cyclic, shift=False".
        learning_rate: the peak.
        learning_rate_multiple: the learning rate over the method's default.
        seed: for the factors, the order of the data and dropout.
        score_name: the main metric.
        score: its best value.
        maximize: whether a higher score is better.
        best: the metrics of the best evaluation, and its step.
        metrics: the lines of `metrics.jsonl`.
        trainable: how many parameters train.
        total: the parameters of the base.
        adapter_bytes: size of the adapter's folder.
        seconds_per_step: the median over the log's windows; the first one, which compiles, is left out.
        flops_per_step: counted from shapes, for a batch of examples of mean length.
        peak_bytes: the device's peak memory if it is known, else that of the process.
        forgetting: the base's mean loss on a text, in nats per token, before and after; None where not measured.
        evaluation: what `hut_jax.evaluate` found, with the texts; None where it did not run.
        movement: how far each kernel moved (`experiments.movement`); None where not measured.
        base: its name and fingerprint.
        versions: of Python, this library and the libraries that it uses.
        device: what the run had, and how many.
        cores: of the processor that the run had.
        platform: the operating system.
        commit: of this library's repository; empty where there is none.
        config: every field of the run's config, by its dotted name.
    """

    name: str
    method: str
    rank: int | None
    settings: str
    learning_rate: float
    learning_rate_multiple: float
    seed: int
    score_name: str
    score: float
    maximize: bool
    best: dict[str, Any]
    metrics: list[dict[str, Any]]
    trainable: int
    total: int
    adapter_bytes: int
    seconds_per_step: float
    flops_per_step: int
    peak_bytes: int
    forgetting: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    movement: list[dict[str, Any]] | None
    base: dict[str, str]
    versions: dict[str, str]
    device: str
    cores: int
    platform: str
    commit: str
    config: dict[str, Any]


def parse(values: Mapping[str, Any], where: str) -> Record:
    """The record with these values.

    Raises:
        UserError: a field is missing, unknown or of another type; the message begins with `where`.
    """
    try:
        return build(Record, values, "record")
    except UserError as error:
        raise UserError(f"{where} is no record of this version: {error}") from None


def write_record(folder: Path, record: Record) -> None:
    """Write the record to the run's folder, whole or not at all."""
    write_json(folder / RECORD, asdict(record))


def read_record(folder: Path) -> Record:
    """The record in a run's folder.

    Raises:
        UserError: it is missing or no record.
    """
    return parse(read_json(folder / RECORD), str(folder / RECORD))


def complete(record: Record, folder: Path) -> Record:
    """The record with what was measured after training: the evaluation, and how far the kernels moved."""
    if (folder / EVALUATION).exists():
        evaluation = read_json(folder / EVALUATION)
        if (folder / TEXTS).exists():
            evaluation["texts"] = lines_of(read_text(folder / TEXTS))
        record = replace(record, evaluation=evaluation)
    if (folder / MOVEMENT).exists():
        record = replace(record, movement=read_json(folder / MOVEMENT)["kernels"])
    return record


def run_name(adapter: str, multiple: float, seed: int) -> str:
    """A run's name, which is also its folder, such as hut,rank=8/0.5/0 for the adapter hut:rank=8."""
    return f"{adapter.replace(':', ',')}/{multiple:g}/{seed}"


def parse_name(name: str) -> dict[str, Any]:
    """The fields of a record that the run's name holds. `targets=()` is not shown among its settings."""
    adapter, multiple, _ = name.rsplit("/", 2)
    method, *settings = re.split(r",(?=\w+=)", adapter)
    shown = [one for one in settings if not one.startswith("rank=") and one != "targets=()"]
    return {
        "name": name,
        "method": method,
        "settings": ", ".join(shown),
        "learning_rate_multiple": float(multiple),
    }


def make_record(name: str, config: RunConfig, folder: Path, result: dict[str, Any], text: str = "") -> Record:
    """The record of a run that has just ended in this process.

    Args:
        name: of the run.
        config: of the run.
        folder: its workdir.
        result: what training returned.
        text: a UTF-8 text, plain or .xz, to measure the forgetting of a causal language model on; "" measures none.
    """
    multiple = config.data.length_multiple
    length = multiple * -(-round(result["mean_length"]) // multiple)
    metrics = read_metrics(folder)
    windows = [line["seconds_per_step"] for line in metrics if line["split"] == "train"]
    return Record(
        **parse_name(name),
        rank=getattr(config.adapter.transform, "rank", None),
        learning_rate=config.train.learning_rate,
        seed=config.seed,
        score_name=result["score_name"],
        score=result["best"][result["score_name"]],
        maximize=result["maximize"],
        best=result["best"],
        metrics=metrics,
        trainable=result["trainable"],
        total=result["total"],
        adapter_bytes=result["adapter_bytes"],
        seconds_per_step=statistics.median(windows[1:] or windows),
        flops_per_step=adapter_cost(config, make_work(config, length)).step.flops,
        peak_bytes=result["peak_bytes"],
        forgetting=losses(folder, text) if text else None,
        evaluation=None,
        movement=None,
        base=result["base"] | {"name": portable(result["base"]["name"])},
        versions=result["versions"],
        device=result["device"],
        cores=len(os.sched_getaffinity(0)),
        platform=result["platform"],
        commit=result["commit"],
        config=fields_of(config),
    )


PATHS = ("model", "tokenizer", "data.dir", "data.cache", "data.text", "adapter.start")
"""Fields of the config that name files, or a model on the hub."""


def fields_of(config: RunConfig | ConfigDict) -> dict[str, Any]:
    """A config as a record holds it."""
    fields = {field: portable(value) if field in PATHS else value for field, value in flatten_config(config).items()}
    return json.loads(json.dumps(fields))


def portable(path: str) -> str:
    """The end of a path, which names it on any machine."""
    return "/".join(Path(path).parts[-2:])
