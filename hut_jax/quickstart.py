"""Train as configs/quickstart.py says, then compare the base and HUT on held-out text.

python -m hut_jax.quickstart, or make quickstart
"""

import math
from collections.abc import Sequence
from pathlib import Path

from hut_jax.adapters.files import size_on_disk
from hut_jax.core import cli
from hut_jax.data.batching import batch_dataset
from hut_jax.data.e2e.dataset import encode_e2e, encode_prompts, load_e2e, references
from hut_jax.generation import Constraints, Greedy, generate
from hut_jax.runs import config_files
from hut_jax.runs.batches import evaluation_batching
from hut_jax.runs.trained import TrainedRun, load_run
from hut_jax.runs.workdir import ADAPTER
from hut_jax.train import train

SAMPLES = 3
NEW_TOKENS = 64


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.quickstart", __doc__ or "")
    parser.add_argument("--workdir", default="runs/quickstart", metavar="FOLDER", help="the folder of the run")
    args, config = config_files.parse_with_config(parser, argv, default="configs/quickstart.py")
    workdir = Path(args.workdir)
    result = train(config, workdir)
    compare(load_run(workdir))
    print(
        f"\n{result['trainable']:,} of {result['total']:,} parameters trained ({result['percent']:.2f} %), "
        f"in {result['seconds']:.0f} s; the adapter takes {size_on_disk(workdir / ADAPTER):,} bytes.\n"
        f"Everything is in {workdir}: adapter/, metrics.jsonl, result.json, tensorboard/, checkpoints/."
    )
    return 0


def compare(run: TrainedRun) -> None:
    """Print the loss of base and adapted model on the test split, and some texts by each model and by a human."""
    data, tokenizer = run.config.data, run.tokenizer
    test = load_e2e(data.dir, cache_dir=data.cache, splits=["test"])["test"]
    texts = references(test)
    models = {"base": run.params, "HUT": run.merge()}

    sequences = encode_e2e(test, tokenizer, data.max_length).sequences
    batches = list(batch_dataset(sequences, evaluation_batching(run.config)))
    evaluate = run.plain_evaluation()
    print(f"\nOn {len(texts)} held-out restaurants ({len(test)} texts):\n\n        loss  perplexity")
    for name, params in models.items():
        loss = evaluate(params, batches).loss
        print(f"{name:>5}  {loss:5.3f}  {math.exp(loss):10.2f}")

    mrs = list(texts)[:SAMPLES]
    prompts = encode_prompts(mrs, tokenizer)
    constraints = Constraints(NEW_TOKENS, tokenizer.eos_id)
    generated = {name: generate(run.model, params, prompts, Greedy(), constraints) for name, params in models.items()}
    for i, mr in enumerate(mrs):
        print(f"\n   input  {mr}")
        for name in models:
            print(f"{name:>8}  {tokenizer.decode(generated[name][i].tokens).strip()!r}")
        print(f"   human  {texts[mr][0]!r}")


if __name__ == "__main__":
    cli.run(main)
