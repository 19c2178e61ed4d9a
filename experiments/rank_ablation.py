r"""The score against the rank, for HUT and other methods.

    python -m experiments.rank_ablation --config=configs/quickstart.py
    python -m experiments.rank_ablation --config=configs/glue.py:mrpc --config.data.dir=GLUE \
        --methods=hut,lora,hira --ranks=1,2,4,8,16,32,64 --seeds=0,1,2,3,4 --jobs=2

The config gives base, task and everything else; any of its fields can be set. Each method runs at each rank at the best
of its own learning rates. They are multiples of the method's default (`hut_jax/transforms`), half a decade apart. All
begin with the same ones, and go on until the best one is inside. The runs that choose have a quarter of the steps and a
seed of their own. They are scored on a tenth of the training data, which they do not see. The runs that are reported
have other seeds and all training data, and are scored on the validation split before the first step and after the last.
`--rates` gives learning rates by hand; tables and picture say so.

The same command resumes a study that was stopped; finished runs are not run again. At the end one JSONL holds all runs
of the workdir. `experiments.report` makes tables and pictures from it.
"""

from collections.abc import Sequence

from experiments.options import numbers
from experiments.study import add_arguments, study
from hut_jax.core import cli
from hut_jax.core.errors import UserError, nearest
from hut_jax.runs import config_files
from hut_jax.transforms import TRANSFORMS


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.rank_ablation", __doc__ or "")
    parser.add_argument("--methods", default="hut,lora", help="transformations that have a rank")
    parser.add_argument("--ranks", default="1,8", help="of each method")
    add_arguments(parser, "runs/rank_ablation")
    args, config = config_files.parse_with_config(parser, argv)
    ranked = [name for name, transform in TRANSFORMS.items() if "rank" in transform.__dataclass_fields__]
    for method in args.methods.split(","):
        if method not in ranked:
            raise UserError(f"--methods: {method!r} has no rank, or there is no such method; {nearest(method, ranked)}")
    ranks = numbers("--ranks", args.ranks, int)
    study(config, [f"{method}:rank={rank}" for rank in ranks for method in args.methods.split(",")], args)
    return 0


if __name__ == "__main__":
    cli.run(main)
