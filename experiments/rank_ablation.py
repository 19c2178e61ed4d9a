"""The score against the rank, for HUT and its peers.

    python -m experiments.rank_ablation --config=configs/quickstart.py
    python -m experiments.rank_ablation --config=configs/glue.py:mrpc --config.data.dir=GLUE \
        --methods=hut,lora,hira --ranks=1,2,4,8,16,32,64 --rates=0.1,0.3,1,3 --seeds=0,1,2 --jobs=2

The config says base, task and all else; any field of it can be set. A method's rate is one of `--rates`, which are
multiples of its own (`hut_jax/transforms`): where there are several, each is tried with the first seed at the rank in
the middle, and the best is taken for all. What has run is not run again, and the same command goes on where it was
stopped. The table and the pictures are made from the runs' records alone: `--report` makes them of what there is.
"""

from collections.abc import Sequence

from experiments.study import add_arguments, numbers, study
from hut_jax.core import cli
from hut_jax.core.errors import UserError, nearest
from hut_jax.runs import config_files
from hut_jax.transforms import TRANSFORMS


def main(argv: Sequence[str]) -> int:
    """The experiment; returns its exit code."""
    parser = cli.Parser("experiments.rank_ablation", __doc__ or "")
    parser.add_argument("--methods", default="hut,lora", help="transformations that have a rank")
    parser.add_argument("--ranks", default="1,8", help="of each")
    add_arguments(parser, "runs/rank_ablation")
    args, config = config_files.parse_with_config(parser, argv)
    ranked = [name for name, transform in TRANSFORMS.items() if "rank" in transform.__dataclass_fields__]
    for method in args.methods.split(","):
        if method not in ranked:
            raise UserError(f"--methods: {method!r} has no rank, or there is no such method; {nearest(method, ranked)}")
    ranks = numbers("--ranks", args.ranks, int)
    middle = sorted(ranks)[len(ranks) // 2]
    tuned_as = {f"{m}:rank={rank}": f"{m}:rank={middle}" for rank in ranks for m in args.methods.split(",")}
    study(config, tuned_as, args)
    return 0


if __name__ == "__main__":
    cli.run(main)
