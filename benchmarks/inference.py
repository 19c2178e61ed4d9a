"""Compare a forward pass with HUT (merged, unmerged, many adapters) with the base's, in one run and in turns.

    python -m benchmarks.inference
    python -m benchmarks.inference --model=roberta-large --dtype=bfloat16 --batch=64 --length=128

`merged` uses `adapter.merge`, `unmerged` uses `adapter.apply`. In `64 adapters` each row of the batch has its own
factors (`apply(..., adapter_ids=)`). It is compared with the same batch under one adapter, not with the base. GPT-2
runs only up to its last hidden states, because the product with the vocabulary would hide the difference.
"""

import argparse
import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import machine
from benchmarks.training import MODELS, TARGETS, build, measure
from hut_jax import HUT, Adapter


def main():
    """The benchmark; prints a table and at the end a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="gpt2-small")
    parser.add_argument("--targets", choices=TARGETS, default="query+value")
    parser.add_argument("--dtype", default="float32", help="of the base and its computation")
    parser.add_argument("--batch", type=int, default=64, help="rows, and the number of adapters")
    parser.add_argument("--length", type=int, default=32, help="tokens of each")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each, after one that does not count")
    parser.set_defaults(remat="none", attention="xla", scan_layers=False)  # what `build` reads besides
    args = parser.parse_args()

    model, base = build(args)
    turns, peers = make_turns(args, model, base)
    seconds = measure(turns, args.repeats)
    ratios = {
        name: sorted(a / b for a, b in zip(seconds[name], seconds[peer], strict=True)) for name, peer in peers.items()
    }
    print("| | ms | compared with | time ratio | min to max |\n|---|---|---|---|---|")
    for name, peer in peers.items():
        found = ratios[name]
        print(
            f"| {name} | {1e3 * statistics.median(seconds[name]):.1f} | {peer} | {statistics.median(found):.3f} "
            f"| {found[0]:.3f} to {found[-1]:.3f} |"
        )
    report = machine() | vars(args) | {"seconds": seconds, "ratios": ratios}
    print(f"\n{args.model}, {args.targets}, {args.dtype}, {args.batch} x {args.length} tokens, {report['device']}")
    print(json.dumps(report))


def make_turns(args, model, base):
    """The functions of a turn, by name, and for each the name of the function that it is compared with."""
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 400, (args.batch, args.length)), jnp.int32)
    options = {} if "roberta" in args.model else {"method": "hidden"}
    plain = jax.jit(lambda params: model.apply({"params": params}, ids, **options))

    def adapted(adapter, factors, **more):
        run = jax.jit(lambda base, factors: adapter.apply(model, base, factors, ids, **options, **more))
        return lambda: jax.block_until_ready(run(base, factors))

    def merged(adapter, factors):
        params = adapter.merge(base, factors)
        return lambda: jax.block_until_ready(plain(params))

    turns, peers = {"base": lambda: jax.block_until_ready(plain(base))}, {"base": "base"}
    for rank in (1, 8):
        adapter = Adapter(HUT(rank=rank), TARGETS[args.targets])
        factors = random_factors(adapter, base)
        turns[f"merged, r = {rank}"] = merged(adapter, factors)
        turns[f"unmerged, r = {rank}"] = adapted(adapter, factors)
        peers |= {f"merged, r = {rank}": "base", f"unmerged, r = {rank}": "base"}
    adapter = Adapter(HUT(rank=1), TARGETS[args.targets])
    one, rows = random_factors(adapter, base), jnp.arange(args.batch)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf * (row + 1) / args.batch for row in range(args.batch)]), one)
    name = f"{args.batch} adapters, r = 1"
    return turns | {name: adapted(adapter, many, adapter_ids=rows)}, peers | {name: "unmerged, r = 1"}


def random_factors(adapter, base):
    """Factors far enough from the identity that every part of them matters."""
    zero = adapter.init(jax.random.key(0), base)
    return jax.tree.map(lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), zero)


if __name__ == "__main__":
    main()
