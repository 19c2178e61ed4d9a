"""Compare the grouped top-k of beam search with `jax.lax.top_k`, in turns.

    python -m benchmarks.top_k
    python -m benchmarks.top_k --rows=10,80,160 --vocabulary=50257 --k=20 --turns=31

The rows are the beams of all prompts. k is the number of tokens that beam search needs from each beam: twice the number
of beams. In each turn both run once, so that other work on the machine disturbs both. The ratio is the median over
turns. It is given with its quartiles, and also for processor time.
"""

import argparse
import os
import time

import jax
import numpy as np

from benchmarks.machine import machine
from hut_jax.generation.top_k import grouped_top_k


def main():
    """The benchmark; prints one line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10,80,160", help="beams of all prompts, several numbers with commas")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--turns", type=int, default=31, help="after one that does not count")
    args = parser.parse_args()
    sides = {"grouped": jax.jit(grouped_top_k, static_argnums=1), "lax": jax.jit(jax.lax.top_k, static_argnums=1)}
    where = machine()
    print(f"{where['device']}, {where['cores']} cores, jax {jax.__version__}")
    for rows in map(int, args.rows.split(",")):
        logits = np.random.default_rng(0).normal(size=(rows, args.vocabulary)).astype(np.float32)
        print(describe(rows, measure(sides, jax.device_put(logits), args.k, args.turns)), flush=True)


def measure(sides, logits, k, turns):
    """The elapsed and the processor seconds of each side, turn by turn."""
    seconds = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, run in sides.items():
            elapsed, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(run(logits, k))
            seconds[name].append((time.perf_counter() - elapsed, time.process_time() - processor))
    return {name: np.array(values[1:]) for name, values in seconds.items()}  # the first turn compiles


def describe(rows, seconds):
    """The medians of both, and of their ratio."""
    grouped, lax = (1e3 * np.median(seconds[name][:, 0]) for name in ("grouped", "lax"))
    low, middle, high = np.quantile(seconds["lax"][:, 0] / seconds["grouped"][:, 0], [0.25, 0.5, 0.75])
    processor = np.median(seconds["lax"][:, 1] / seconds["grouped"][:, 1])
    return (
        f"{rows} rows: grouped {grouped:.2f} ms, jax.lax.top_k {lax:.2f} ms, {middle:.2f} times as long "
        f"(quartiles {low:.2f} to {high:.2f}; in processor time {processor:.2f}); load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
