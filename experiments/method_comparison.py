r"""Compare HUT with other ways to fine-tune, each at the best of its own learning rates.

    python -m experiments.method_comparison --config=configs/quickstart.py --adapters=hut:rank=8,lora:rank=8
    python -m experiments.method_comparison --config=configs/glue.py:mrpc --config.data.dir=GLUE \
        --adapters=hut:rank=8,lora:rank=8,hira:rank=8,dora:rank=8,ia3,ssf,bitfit,layernorm,full,head \
        --seeds=0,1,2,3,4 --jobs=2

An adapter is written as for `hut_jax.cost`: its name, and settings after colons (`ia3:targets=()` takes IA3's own
targets if the config has others). `head` trains only what `config.adapter.also_train` names. Each adapter runs at the
best of its own learning rates, as in `experiments.rank_ablation`. The same command resumes a study that was stopped;
finished runs are not run again. At the end one JSONL holds all runs of the workdir. `experiments.report` and
`experiments.summary` make tables and pictures from it.
"""

from collections.abc import Sequence

from experiments.study import add_arguments, study
from hut_jax.core import cli
from hut_jax.runs import config_files


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.method_comparison", __doc__ or "")
    parser.add_argument("--adapters", default="hut:rank=8,lora:rank=8,hira:rank=8,full", help="what is compared")
    add_arguments(parser, "runs/method_comparison")
    args, config = config_files.parse_with_config(parser, argv)
    study(config, args.adapters.split(","), args)
    return 0


if __name__ == "__main__":
    cli.run(main)
