"""Merge a run's best factors into its base: python -m hut_jax.merge --workdir=runs/e2e --output=merged

The output is a Hugging Face checkpoint (`config.json`, `model.safetensors`, the tokenizer's files) without
an adapter. Any tool that reads such checkpoints can load it.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from hut_jax.core import cli
from hut_jax.models.hub.saving import save_pretrained
from hut_jax.runs.trained import load_run


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.merge", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="the folder of a run of hut_jax.train")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the folder for the merged model")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="the dtype of the merged model; default: the run's own"
    )
    parser.add_argument("--force", action="store_true", help="merge even if the base is not the one trained on")
    args = parser.parse_args(argv)

    run = load_run(Path(args.workdir), force=args.force)
    merged = run.merge()
    if args.dtype:
        merged = jax.tree.map(lambda leaf: leaf.astype(args.dtype), merged)
        run.adapter.check_finite(merged)
    save_pretrained(args.output, run.model, merged)
    run.tokenizer.save(args.output)

    trainable = run.adapter.count(run.params).trainable
    print(f"merged {trainable:,} trained parameters into {run.config.model}; the model is in {args.output}")
    return 0


if __name__ == "__main__":
    cli.run(main)
