r"""Convert a study of version 0.1, which kept one `record.json` for each run, to one JSONL.

    python -m experiments.convert_records OLD/minilm/sst2 results/minilm_sst2.jsonl \
        --movement=OLD/movement_sst2/movement.json

`OLD/minilm/sst2` holds the runs' folders. If `hut_jax.evaluate` wrote files beside a record, they go into the run's
line.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.record import RECORD, Record, complete, parse, parse_name, run_name
from experiments.results import write_study
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.training.earlier_names import current_names
from hut_jax.transforms import TRANSFORMS


def convert(old: Mapping[str, Any], movement: Sequence[Sequence[Any]] | None = None) -> Record:
    """A record in the form of this version.

    Args:
        old: what a `record.json` of version 0.1 holds.
        movement: the rows of this run in the `movement.json` of version 0.1.

    Raises:
        UserError: `old` is not such a record.
    """
    config, renamed = old["config"], current_names(old)
    score_name = renamed["score_name"]
    fields = ("kernel", "norm", "rank", "factors")
    rows = None if movement is None else [dict(zip(fields, row, strict=True)) for row in movement]
    values = parse_name(name_of(old)) | {
        "rank": config.get("adapter.rank"),
        "learning_rate": config["train.learning_rate"],
        "score_name": score_name,
        "score": renamed["best"][score_name],
        "metrics": [current_names(line) for line in old["metrics"]],
        "flops_per_step": old["flops_per_update"],
        "evaluation": None,
        "movement": rows,
    }
    kept = (
        "seed", "best", "maximize", "trainable", "total", "adapter_bytes", "seconds_per_step", "peak_bytes",
        "forgetting", "base", "versions", "device", "cores", "platform", "commit", "config",
    )  # fmt: skip
    return parse(values | {field: renamed[field] for field in kept}, old["name"])


def name_of(old: Mapping[str, Any]) -> str:
    """The run's name. A run of `glue_minilm` was named by its task, method, learning rate and seed."""
    if old["name"].count("/") == 2:
        return str(old["name"])
    _, method, _, seed = old["name"].split("/")
    config = old["config"]
    own = config["train.also_train_learning_rate"] if method == "head" else TRANSFORMS[method].learning_rate
    adapter = f"{method}:rank={config['adapter.rank']}" if "adapter.rank" in config else method
    return run_name(adapter, config["train.learning_rate"] / own, int(seed))


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.convert_records", __doc__ or "")
    parser.add_argument("study", type=Path, metavar="FOLDER", help="the folder of the study's runs")
    parser.add_argument("output", type=Path, metavar="FILE", help="the JSONL to write")
    parser.add_argument("--movement", type=Path, metavar="FILE", help="the movement.json of runs of this study")
    args = parser.parse_args(argv)
    moved = json.loads(args.movement.read_text(encoding="utf-8")) if args.movement else {}
    records = []
    for file in sorted(args.study.glob(f"*/*/*/{RECORD}")):
        old = json.loads(file.read_text(encoding="utf-8"))
        _, rows = moved.get(old["name"], (None, None))
        records.append(complete(convert(old, rows), file.parent))
    if not records:
        raise UserError(f"no run's {RECORD} in {args.study}")
    write_study(args.output, records)
    print(f"{len(records)} runs in {args.output}")
    return 0


if __name__ == "__main__":
    cli.run(main)
