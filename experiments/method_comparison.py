r"""Compare HUT with other ways to fine-tune, each at the best of its own learning rates.

    python -m experiments.method_comparison --config=configs/quickstart.py --adapters=hut:rank=8,lora:rank=8
    python -m experiments.method_comparison --config=configs/glue.py:mrpc --config.data.dir=GLUE \
        --adapters=hut:rank=8,lora:rank=8,hira:rank=8,dora:rank=8,ia3,ssf,bitfit,layernorm,full,head \
        --rates=0.1,0.3,1,3 --seeds=0,1,2 --jobs=2

An adapter is written as for `hut_jax.cost`: its name, and settings after colons (`ia3:targets=()` takes IA3's own
targets if the config has others). `head` trains only what `config.adapter.also_train` names. `--rates` are learning
rates, as multiples of the adapter's default (`hut_jax/transforms`). If there are several, each adapter tries all of
them with the first seed. The best one is used for all seeds. The same command resumes a study that was stopped;
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
    study(config, {adapter: adapter for adapter in args.adapters.split(",")}, args)
    return 0


if __name__ == "__main__":
    cli.run(main)
