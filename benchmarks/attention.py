"""Compare attention on a CPU with `jax.nn.dot_product_attention`, in turns: forward and backward pass.

    python -m benchmarks.attention
    python -m benchmarks.attention --shapes=3x144x9x3,8x64x12x12 --turns=31

A shape is batch x tokens x heads of queries x heads of keys. Rows hold several texts, of up to 48 tokens each. The
layers are scanned and keep products with kernels alone, as in training: the backward pass computes the weights again.
In each turn all three run once, so that other work on the machine disturbs all. Ratios are medians over turns, with
their quartiles.
"""

import argparse
import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import machine
from hut_jax.models.attention import attend
from hut_jax.models.dropout import Dropout
from hut_jax.models.layers import REMAT

LAYERS, WIDTH = 8, 64


def main():
    """The benchmark; prints one line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="3x144x9x3,8x64x9x3,8x64x12x12,2x512x12x12", help="several with commas")
    parser.add_argument("--turns", type=int, default=31, help="after one that does not count")
    args = parser.parse_args()
    where = machine()
    print(f"{where['device']} ({where['processor']}), {where['cores']} cores, jax {jax.__version__}")
    drop = Dropout(0.0, deterministic=True).bind({})
    sides = {
        "ours": functools.partial(attend, scale=WIDTH**-0.5, drop=drop, causal=True),
        "without blocks": functools.partial(attend, scale=WIDTH**-0.5, drop=drop),
        "jax": functools.partial(jax.nn.dot_product_attention, scale=WIDTH**-0.5),
    }
    for shape in args.shapes.split(","):
        print(describe(shape, measure(sides, *map(int, shape.split("x")), turns=args.turns)), flush=True)


def measure(sides, batch, tokens, heads, key_heads, *, turns):
    """The seconds of one layer on each side, turn by turn."""
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    query, gradient = draw(batch, tokens, heads, WIDTH), draw(batch, tokens, heads, WIDTH)
    pairs = draw(LAYERS, batch, tokens, key_heads, WIDTH), draw(LAYERS, batch, tokens, key_heads, WIDTH)
    texts = np.arange(tokens) // 48
    mask = jnp.asarray(np.tril(texts[:, None] == texts))[None, None]
    programs = {name: program(side, mask) for name, side in sides.items()}
    seconds = {name: [] for name in sides}
    for _ in range(turns + 1):
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(query, pairs, gradient))
            seconds[name].append((time.perf_counter() - start) / LAYERS)
    return {name: np.array(values[1:]) for name, values in seconds.items()}  # the first turn compiles


def program(side, mask):
    """The outputs and gradients of layers that each attend to their own keys and values."""
    layer = jax.checkpoint(lambda query, pair: query + side(query, *pair, mask=mask), policy=REMAT["dots"])

    def run(query, pairs, gradient):
        def forward(query, pairs):
            return jax.lax.scan(lambda query, pair: (layer(query, pair), None), query, pairs)[0]

        y, backward = jax.vjp(forward, query, pairs)
        return y, backward(gradient)

    return jax.jit(run)


def describe(shape, seconds):
    """The medians of all, and of the ratios to ours."""
    ratios = []
    for name in list(seconds)[1:]:
        low, middle, high = np.quantile(seconds[name] / seconds["ours"], [0.25, 0.5, 0.75])
        ratios.append(f"{name} {1e3 * np.median(seconds[name]):.2f} ms, {middle:.2f} times ({low:.2f} to {high:.2f})")
    ours = f"ours {1e3 * np.median(seconds['ours']):.2f} ms a layer"
    return f"{shape}: {'; '.join([ours, *ratios])}; load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
