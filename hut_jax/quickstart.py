"""The quickstart: train as configs/quickstart.py says, then compare base and HUT on held-out text.

python -m hut_jax.quickstart, or make quickstart
"""

import math
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from hut_jax.adapters.files import load_adapter, size_on_disk
from hut_jax.core import cli
from hut_jax.data.batching import batch_dataset
from hut_jax.data.e2e.dataset import encode_e2e, encode_prompts, load_e2e, references
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.generation import greedy
from hut_jax.runs import config_files
from hut_jax.runs.run import batching, load_base
from hut_jax.runs.workdir import ADAPTER
from hut_jax.tasks.causal_lm import causal_lm_loss
from hut_jax.train import train
from hut_jax.training.steps import Evaluation

SAMPLES = 3
NEW_TOKENS = 64


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.quickstart", __doc__ or "")
    parser.add_argument("--workdir", default="runs/quickstart", metavar="FOLDER", help="where the run is kept")
    args, config = config_files.parse_with_config(parser, argv, default="configs/quickstart.py")
    workdir = Path(args.workdir)
    result = train(config, workdir)
    compare(config, workdir)
    print(
        f"\n{result['trainable']:,} of {result['total']:,} numbers trained ({result['percent']:.2f} %), "
        f"in {result['seconds']:.0f} s; the adapter takes {size_on_disk(workdir / ADAPTER):,} bytes.\n"
        f"Everything is in {workdir}: adapter/, metrics.jsonl, result.json, tensorboard/, checkpoints/."
    )
    return 0


def compare(config: ConfigDict, workdir: Path) -> None:
    """Print the base's and the adapted model's loss on the test split, and some texts by each and by a human."""
    model, params = load_base(config)
    adapter, factors = load_adapter(workdir / ADAPTER, params, name=config.model)
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    test = load_e2e(config.data.dir, cache_dir=config.data.cache, splits=["test"])["test"]
    texts = references(test)
    models = {"base": params, "HUT": adapter.merge(params, factors)}

    sequences = encode_e2e(test, tokenizer, config.data.max_length).sequences
    batches = list(batch_dataset(sequences, batching(config).for_evaluation(config.eval.batch_size)))
    evaluation = Evaluation(
        lambda params, _, *args, **kwargs: model.apply({"params": params}, *args, **kwargs), causal_lm_loss
    )
    print(f"\nOn {len(texts)} restaurants that were held out ({len(test)} texts):\n\n        loss  perplexity")
    for name, weights in models.items():
        loss = evaluation(weights, {}, batches).loss
        print(f"{name:>5}  {loss:5.3f}  {math.exp(loss):10.2f}")

    mrs = list(texts)[:SAMPLES]
    prompts = encode_prompts(mrs, tokenizer)
    written = {
        name: greedy(model, weights, prompts, max_new_tokens=NEW_TOKENS, eos_id=tokenizer.eos_id)
        for name, weights in models.items()
    }
    for i, mr in enumerate(mrs):
        print(f"\n  to say  {mr}")
        for name in models:
            print(f"{name:>8}  {tokenizer.decode(written[name][i]).strip()!r}")
        print(f" written  {texts[mr][0]!r}")


if __name__ == "__main__":
    cli.run(main)
