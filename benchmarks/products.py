"""Compare products with a layer's kernels in JAX and in PyTorch, in turns. They are most of a training step's FLOPs.

    python -m benchmarks.products
    python -m benchmarks.products --rows=512 --kernels=768x768,768x3072,3072x768
    python -m benchmarks.products --dtype=bfloat16

It needs `make peers`. A line has a kernel's inputs x outputs; the default has those of SmolLM2 and then of GPT-2 small.
"forward" multiplies activations by the kernel, "backward" the gradients of its outputs by its transpose. A run takes
eight kernels of the shape, with activations of their own, and keeps all products. PyTorch's kernels lie in memory as in
`torch.nn.Linear`. In each turn both libraries run in both directions, in random order. Rates are medians over turns,
and so is PyTorch's rate over JAX's of the same turn, with its quartiles. JAX's products are those of our models
(`hut_jax.core.products`). In bfloat16 "plain" is JAX's own product, which ours is, too, on a CPU without matrix units.
"exchanged" is ours, forward, with a kernel of outputs x inputs, as decoding with such units has it
(`hut_jax.generation.transposed`).
"""

import argparse
import os
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.torch_models import DEVICE, use_the_device_of_jax
from hut_jax.core.products import einsum

KERNELS = 8
EQUATIONS = {"forward": "nd,dk->nk", "backward": "nk,dk->nd", "exchanged": "nd,kd->nk"}
REST = 0.05
"""Seconds before a run. The threads of PyTorch look for more work for some milliseconds, and would slow JAX's."""


def main():
    """The benchmark; prints a line for each kernel and direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=432, help="of the activations: the positions of a batch")
    parser.add_argument(
        "--kernels",
        default="576x576,576x192,576x1536,1536x576,768x768,768x3072,3072x768",
        help="inputs x outputs, several with commas",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, default=31)
    args = parser.parse_args()
    use_the_device_of_jax()
    where = machine(torch)
    place = f"{where['device']} ({where['processor']}), {where['cores']} cores, {where['versions']}"
    print(f"{place}, {args.rows} rows, {args.dtype}")
    for shape in args.kernels.split(","):
        inputs, outputs = map(int, shape.split("x"))
        rates = measure(args.rows, inputs, outputs, args.turns, args.dtype)
        for direction in ("forward", "backward"):
            print(describe(f"{shape} {direction}", *(rates[side, direction] for side in ("jax", "torch"))), end="")
            for other in ("plain", "exchanged"):
                if (other, direction) in rates:
                    print(f"; {other} {1e-9 * np.median(rates[other, direction]):.0f} GFLOP/s", end="")
            print(flush=True)


def measure(rows, inputs, outputs, turns, dtype):
    """FLOPs per second of each library and direction, turn by turn."""
    draw = np.random.default_rng(0)
    kernels, activations, gradients = (
        [draw.standard_normal(shape, np.float32) for _ in range(KERNELS)]
        for shape in ((inputs, outputs), (rows, inputs), (rows, outputs))
    )
    programs = {}
    for direction, operands in (("forward", activations), ("backward", gradients)):
        programs["jax", direction] = in_jax(kernels, operands, direction, dtype, einsum)
        programs["torch", direction] = in_torch(kernels, operands, direction, dtype)
        if dtype == "bfloat16":
            programs["plain", direction] = in_jax(kernels, operands, direction, dtype, jnp.einsum)
    if dtype == "bfloat16":
        exchanged = [kernel.T for kernel in kernels]
        programs["exchanged", "forward"] = in_jax(exchanged, activations, "exchanged", dtype, einsum)
    rates = {name: [] for name in programs}
    for turn in range(turns):
        for name in random.Random(turn).sample(list(programs), len(programs)):
            time.sleep(REST)
            programs[name]()  # compiles, and wakes what the rest has put to sleep
            start = time.perf_counter()
            programs[name]()
            rates[name].append(KERNELS * 2 * rows * inputs * outputs / (time.perf_counter() - start))
    return {name: np.array(values) for name, values in rates.items()}


def in_jax(kernels, operands, direction, dtype, product):
    """A run of JAX's products."""

    @jax.jit
    def multiply(operands, kernels):
        return [product(EQUATIONS[direction], x, kernel) for x, kernel in zip(operands, kernels, strict=True)]

    operands, kernels = jax.tree.map(lambda one: jnp.asarray(one, dtype), (operands, kernels))
    return lambda: jax.block_until_ready(multiply(operands, kernels))


def in_torch(kernels, operands, direction, dtype):
    """A run of PyTorch's products."""
    to = {"device": DEVICE, "dtype": getattr(torch, dtype)}
    operands = [torch.from_numpy(x).to(**to) for x in operands]
    weights = [torch.from_numpy(np.ascontiguousarray(kernel.T)).to(**to) for kernel in kernels]
    kernels = [weight.T for weight in weights] if direction == "forward" else weights

    def run():
        products = [x @ kernel for x, kernel in zip(operands, kernels, strict=True)]
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return products

    return run


def describe(name, ours, theirs):
    """The medians of both, and of their ratio."""
    low, middle, high = np.quantile(theirs / ours, [0.25, 0.5, 0.75])
    jax_rate, torch_rate = (1e-9 * np.median(rates) for rates in (ours, theirs))
    return (
        f"{name}: JAX {jax_rate:.0f} GFLOP/s, PyTorch {torch_rate:.0f}, PyTorch / JAX {middle:.2f} "
        f"({low:.2f} to {high:.2f}); load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
