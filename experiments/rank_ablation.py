"""The score against the rank, for HUT and its peers.

    python experiments/rank_ablation.py --config=configs/quickstart.py
    python experiments/rank_ablation.py --config=configs/glue.py:mrpc --config.data.dir=GLUE \
        --ranks=1,2,4,8,16,32,64 --rates=0.1,0.3,1,3 --seeds=0,1,2 --jobs=2

The config says base, task and all else; any field of it can be set. A method's rate is one of `--rates`, which are
multiples of its own (`hut_jax/transforms`): where there are several, each is tried with the first seed at the rank in
the middle, and the best is taken for all. What has run is not run again, and the same command goes on where it was
stopped. The table and the pictures are made from the runs' records alone: `--report` makes them of what there is.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.grid import run_missing
from experiments.record import RECORD, Record, read_record
from experiments.report import pareto_picture, rank_picture, table
from hut_jax import cli
from hut_jax.config import set_transform, validate
from hut_jax.errors import UserError, nearest
from hut_jax.files import write_text
from hut_jax.transforms import TRANSFORMS


def main(argv: Sequence[str]) -> int:
    """The experiment; returns its exit code."""
    parser = cli.Parser("experiments.rank_ablation", __doc__ or "")
    parser.add_argument("--methods", default="hut,lora,hira", help="transformations that have a rank")
    parser.add_argument("--ranks", default="1,4,16", help="of each")
    parser.add_argument("--rates", default="1", help="learning rates, in multiples of each method's own")
    parser.add_argument("--seeds", default="0", help="the runs of each method and rank")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share out the processor's cores")
    parser.add_argument("--text", default="", help="a text to measure forgetting on, where the base is a GPT-2")
    parser.add_argument("--workdir", default="runs/rank_ablation", metavar="FOLDER", help="where the runs are kept")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args, config = cli.parse_with_config(parser, argv)
    methods = [_ranked(method) for method in args.methods.split(",")]
    ranks = [_number("--ranks", rank, int) for rank in args.ranks.split(",")]
    rates = [_number("--rates", rate, float) for rate in args.rates.split(",")]
    seeds = [_number("--seeds", seed, int) for seed in args.seeds.split(",")]
    workdir, how = Path(args.workdir), {"jobs": args.jobs, "text": args.text}
    if args.report:
        records = [read_record(path.parent) for path in sorted(workdir.glob(f"*/*/*/*/{RECORD}"))]
    else:
        best = dict.fromkeys(methods, rates[0])
        if len(rates) > 1:
            middle = sorted(ranks)[len(ranks) // 2]
            tried = run_missing(
                dict(make_run(config, m, middle, rate, seeds[0]) for m in methods for rate in rates), workdir, **how
            )
            best = best_rates(methods, middle, rates, seeds[0], tried)
        runs = dict(make_run(config, m, rank, best[m], seed) for seed in seeds for rank in ranks for m in methods)
        records = list(run_missing(runs, workdir, **how).values())
    if not records:
        raise UserError(f"no run's {RECORD} in {workdir}")
    report(records, workdir)
    return 0


def make_run(config: ConfigDict, method: str, rank: int, rate: float, seed: int) -> tuple[str, ConfigDict]:
    """A run's name and its config.

    Raises:
        UserError: the config does not go with it.
    """
    own = config.copy_and_resolve_references()
    set_transform(own, method, rank=rank)
    own.train.learning_rate = rate * TRANSFORMS[method].learning_rate
    own.seed = seed
    validate(own)
    return run_name(method, rank, rate, seed), own


def run_name(method: str, rank: int, rate: float, seed: int) -> str:
    """The folder of a run."""
    return f"{method}/{rank}/{rate:g}/{seed}"


def best_rates(
    methods: Sequence[str], rank: int, rates: Sequence[float], seed: int, tried: dict[str, Record]
) -> dict[str, float]:
    """For each method the rate whose run has the best score."""

    def score(method: str, rate: float) -> float:
        record = tried[run_name(method, rank, rate, seed)]
        return record.score if record.maximize else -record.score

    return {method: max(rates, key=lambda rate, method=method: score(method, rate)) for method in methods}


def report(records: Sequence[Record], workdir: Path) -> None:
    """Print the table, and write it and the pictures."""
    text = table(sorted(records, key=lambda record: (record.config["adapter.name"], record.config["adapter.rank"])))
    write_text(workdir / "table.md", text + "\n")
    rank_picture(records, workdir / "rank")
    pareto_picture(records, workdir / "pareto")
    print(f"{text}\n\nin {workdir}: table.md, rank.svg, rank.png, pareto.svg, pareto.png")


def _ranked(method: str) -> str:
    ranked = [name for name, transform in TRANSFORMS.items() if "rank" in transform.__dataclass_fields__]
    if method not in ranked:
        raise UserError(f"--methods: {method!r} has no rank, or there is no such method; {nearest(method, ranked)}")
    return method


def _number(option: str, text: str, kind: type) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if value < 0 or (value == 0 and option != "--seeds"):
        raise UserError(f"{option}: {text!r} is no {'whole ' if kind is int else ''}number that it may be") from None
    return value


if __name__ == "__main__":
    cli.run(main)
