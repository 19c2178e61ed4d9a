"""Merge a run's best factors into its base: python -m hut_jax.merge --workdir=runs/e2e --output=merged

The output is a Hugging Face checkpoint (`config.json`, `model.safetensors`, the base's `generation_config.json`, the
tokenizer's files) without an adapter. Any tool that reads such checkpoints can load it. The base stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from hut_jax.core import cli
from hut_jax.core.assets import here
from hut_jax.core.errors import UserError
from hut_jax.models.hub.generation_config import copy_generation_config
from hut_jax.models.hub.saving import save_pretrained
from hut_jax.runs.trained import load_run, parse_with_run, run_parser
from hut_jax.runs.workdir import check_writable


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = run_parser("hut_jax.merge", __doc__ or "", verb="merge")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the folder for the merged model")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="the dtype of the merged model; default: the run's own"
    )
    args, config = parse_with_run(parser, argv)

    base = Path(here(config.model))
    if base.is_dir() and args.output.is_dir() and args.output.samefile(base):
        raise UserError(f"--output={args.output} is the base, which stays as it is; give another folder")
    check_writable(args.output, "the folder --output")
    run = load_run(args.workdir, config, force=args.force)
    merged = run.merge()
    if args.dtype:
        merged = jax.tree.map(lambda leaf: leaf.astype(args.dtype), merged)
        run.adapter.check_finite(merged)
    save_pretrained(args.output, run.model, merged)
    copy_generation_config(config.model, args.output)
    run.tokenizer.save(args.output)

    trainable = run.adapter.count(run.params).trainable
    print(f"{config.model} with {trainable:,} trained parameters merged in: the model is in {args.output}")
    return 0


script = cli.script(main)

if __name__ == "__main__":
    script()
