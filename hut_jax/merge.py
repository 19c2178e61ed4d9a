"""Merge a run's best factors into its base: python -m hut_jax.merge --workdir=runs/e2e --output=merged

The output is a Hugging Face checkpoint (`config.json`, `model.safetensors`, the tokenizer's files) with no trace
of the adapter: any tool loads it as it stands.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from hut_jax.adapters.files import load_adapter, read_description
from hut_jax.core import cli
from hut_jax.models.hub.pretrained import save_pretrained
from hut_jax.runs.run import anywhere, load_any_tokenizer, load_base
from hut_jax.runs.workdir import ADAPTER, read_config


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.merge", __doc__ or "")
    parser.add_argument("--workdir", required=True, metavar="FOLDER", help="of a run of hut_jax.train")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the merged model goes")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of what is written; the run's own if not given"
    )
    parser.add_argument("--force", action="store_true", help="merge even if the base is not the one trained on")
    args = parser.parse_args(argv)
    config = read_config(Path(args.workdir))
    folder = Path(args.workdir) / ADAPTER
    read_description(folder)  # for its errors, before the weights are read
    model, params = load_base(anywhere(config))
    tokenizer = load_any_tokenizer(config, model)
    adapter, factors = load_adapter(folder, params, name=config.model, force=args.force)
    merged = adapter.merge(params, factors)
    if args.dtype:
        merged = jax.tree.map(lambda leaf: leaf.astype(args.dtype), merged)
        adapter.check_finite(merged)
    save_pretrained(args.output, model, merged)
    tokenizer.save(args.output)
    print(f"merged {adapter.count(params).trainable:,} numbers into {config.model}; the model is in {args.output}")
    return 0


if __name__ == "__main__":
    cli.run(main)
