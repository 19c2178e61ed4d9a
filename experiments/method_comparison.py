"""HUT beside other ways to fine-tune, each at the best of its own learning rates.

    python -m experiments.method_comparison --config=configs/quickstart.py --adapters=hut:rank=8,lora:rank=8
    python -m experiments.method_comparison --config=configs/glue.py:mrpc --config.data.dir=GLUE \
        --adapters=hut:rank=8,lora:rank=8,hira:rank=8,dora:rank=8,ia3,ssf,bitfit,layernorm,full,head \
        --rates=0.1,0.3,1,3 --seeds=0,1,2 --jobs=2

An adapter is written as for `hut_jax.cost`: its name, and settings behind colons (`ia3:targets=()` takes IA3's own
targets where the config has others). `head` trains what `config.adapter.also_train` names and nothing else. Rates are
multiples of the adapter's own (`hut_jax/transforms`): where there are several, each adapter tries all of them with the
first seed. What has run is not run again, and the same command goes on where it was stopped. The table and the pictures
are made from the runs' records alone: `--report` makes them of what there is.
"""

from collections.abc import Sequence

from experiments.study import add_arguments, study
from hut_jax.core import cli
from hut_jax.runs import config_files


def main(argv: Sequence[str]) -> int:
    """The experiment; returns its exit code."""
    parser = cli.Parser("experiments.method_comparison", __doc__ or "")
    parser.add_argument("--adapters", default="hut:rank=8,lora:rank=8,hira:rank=8,full", help="what is compared")
    add_arguments(parser, "runs/method_comparison")
    args, config = config_files.parse_with_config(parser, argv)
    study(config, {adapter: adapter for adapter in args.adapters.split(",")}, args)
    return 0


if __name__ == "__main__":
    cli.run(main)
