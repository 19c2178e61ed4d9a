"""The results of a study: one JSONL, which holds the config once and then a line for each run.

`results/` holds the JSONL of each study in docs/results.md. To read one with pandas:
`pd.DataFrame(map(json.loads, open("results/minilm_cola.jsonl").readlines()[1:]))`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.record import RECORD, Record, complete, parse, read_record
from hut_jax.core.errors import UserError
from hut_jax.core.files import lines_of, read_text, write_text

RESULTS = "results.jsonl"
"""The study's JSONL in its workdir."""


def write_study(path: Path, records: Iterable[Record]) -> None:
    """Write a study's JSONL: a line with the fields of the config that all runs share, then a line for each run."""
    records = sorted(records, key=lambda record: record.name)
    first, *others = [record.config for record in records]
    shared = {
        field: value
        for field, value in sorted(first.items())
        if all(field in other and other[field] == value for other in others)
    }
    lines: list[dict[str, Any]] = [{"study": path.stem, "config": shared}]
    for record in records:
        own = {field: value for field, value in sorted(record.config.items()) if field not in shared}
        lines.append(asdict(record) | {"config": own})
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_study(path: Path) -> list[Record]:
    """The records of a study, from its JSONL or from the runs in its workdir.

    Raises:
        UserError: there is no record, one cannot be read, or two are of the same run.
    """
    records = _of_folder(path) if path.is_dir() else _of_file(path)
    if not records:
        raise UserError(f"no run in {path}")
    named: dict[tuple, str] = {}
    for record in records:
        run = (record.method, record.rank, record.settings, record.learning_rate, record.seed)
        other = named.setdefault(run, record.name)
        if other != record.name:
            raise UserError(f"{path}: {other} and {record.name} are the same run; take one of them away")
    return records


def _of_folder(workdir: Path) -> list[Record]:
    folders = [file.parent for file in sorted(workdir.glob(f"*/*/*/{RECORD}"))]
    return [complete(read_record(folder), folder) for folder in folders]


def _of_file(path: Path) -> list[Record]:
    try:
        head, *runs = [json.loads(line) for line in lines_of(read_text(path))]
        shared = head.get("config", {})
        runs = [line | {"config": shared | line["config"]} for line in runs]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no study's JSONL: {error}") from None
    return [parse(run, f"line {number} of {path}") for number, run in enumerate(runs, 2)]
