"""What an experiment keeps of a run: one JSON with all that its report needs."""

import dataclasses
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any, get_type_hints

from ml_collections import ConfigDict

from experiments.forgetting import losses
from hut_jax.config import RunConfig, flatten_config
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_json
from hut_jax.runs.costs import adapter_cost, make_work
from hut_jax.training.log import read_metrics

RECORD = "record.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """A run's figures.

    Attributes:
        name: the run's, within its experiment.
        config: every field, by its dotted name.
        seed: of factors, order of the data and dropout.
        metrics: the lines of `metrics.jsonl`.
        best: the best evaluation, with its update.
        headline: the metric that it is best by.
        maximize: whether more of that is better.
        trainable: the numbers that train.
        total: the base's numbers.
        adapter_bytes: of the adapter's folder.
        seconds_per_update: the median over the log's windows but the first, in which things are compiled.
        peak_bytes: the most memory that the run took, on the device where that can be told, else of its process.
        flops_per_update: counted from shapes, for a batch of examples of mean length.
        forgetting: the base's mean loss on a text, in nats a token, before and after; None where it was not measured.
        base: its name and fingerprint.
        versions: of Python, this library and those it uses.
        device: what it ran on, and how many.
        cores: that the process was given.
        platform: the operating system.
        commit: of this library's repository; empty where there is none.
    """

    name: str
    config: dict
    seed: int
    metrics: list
    best: dict
    headline: str
    maximize: bool
    trainable: int
    total: int
    adapter_bytes: int
    seconds_per_update: float
    peak_bytes: int
    flops_per_update: int
    forgetting: dict | None
    base: dict
    versions: dict
    device: str
    cores: int
    platform: str
    commit: str

    @property
    def score(self) -> float:
        """The best headline."""
        return self.best[self.headline]


def write_record(folder: Path, record: Record) -> None:
    """Write it to the run's folder, whole or not at all."""
    write_json(folder / RECORD, dataclasses.asdict(record))


def read_record(folder: Path) -> Record:
    """The record of the run in this folder.

    Raises:
        UserError: it is missing, no JSON, or not as a record is.
    """
    path = folder / RECORD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    types = get_type_hints(Record)
    if not isinstance(values, dict) or values.keys() != types.keys():
        differ = sorted(values.keys() ^ types.keys()) if isinstance(values, dict) else ["an object"]
        raise UserError(f"{path} is no record of this version: it has too much or too little of {', '.join(differ)}")
    for field, kind in types.items():
        if not isinstance(values[field], kind) or isinstance(values[field], bool) is not (kind is bool):
            raise UserError(f"{path}: {field} is {values[field]!r}, and should be of type {kind}")
    record = Record(**values)
    if not isinstance(record.best.get(record.headline), float | int):
        raise UserError(f"{path}: best has no {record.headline}")
    return record


def make_record(name: str, config: RunConfig, folder: Path, result: dict[str, Any], text: str = "") -> Record:
    """The record of a run that has just ended in this process.

    Args:
        name: the run's.
        config: its own.
        folder: its workdir.
        result: what training gave.
        text: a UTF-8 text, plain or .xz, to measure the forgetting of a causal language model on; "" measures none.
    """
    multiple = config.data.length_multiple
    length = multiple * -(-round(result["mean_length"]) // multiple)
    metrics = read_metrics(folder)
    windows = [line["seconds_per_step"] for line in metrics if line["split"] == "train"]
    return Record(
        name=name,
        config=fields_of(config),
        seed=config.seed,
        metrics=metrics,
        best=result["best"],
        headline=result["score_name"],
        maximize=result["maximize"],
        trainable=result["trainable"],
        total=result["total"],
        adapter_bytes=result["adapter_bytes"],
        seconds_per_update=statistics.median(windows[1:] or windows),
        peak_bytes=result["peak_bytes"],
        flops_per_update=adapter_cost(config, make_work(config, length)).step.flops,
        forgetting=losses(folder, text) if text else None,
        base=result["base"] | {"name": portable(result["base"]["name"])},
        versions=result["versions"],
        device=result["device"],
        cores=len(os.sched_getaffinity(0)),
        platform=result["platform"],
        commit=_commit(),
    )


PATHS = ("model", "tokenizer", "data.dir", "data.cache", "data.text", "adapter.start")
"""Fields of the config that name files, or a model on the hub."""


def fields_of(config: RunConfig | ConfigDict) -> dict[str, Any]:
    """A config as a record holds it."""
    fields = {field: portable(value) if field in PATHS else value for field, value in flatten_config(config).items()}
    return json.loads(json.dumps(fields))


def portable(path: str) -> str:
    """The end of a path, which says what it is from any folder and on another machine too."""
    return "/".join(Path(path).parts[-2:])


def _commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return found.stdout.strip()
