"""Compare the products of a training step in JAX and in PyTorch, in turns. Nearly all of a step's FLOPs are these.

    python -m benchmarks.products
    python -m benchmarks.products --rows=512 --kernels=768x768,768x3072,3072x768

Each line has a kernel's inputs x outputs: of SmolLM2 first, then of GPT-2 small. "forward" multiplies the activations
of so many rows by it, "backward" the gradients by its transpose. A turn takes several kernels of this shape, as a model
of several layers does, so that each is read from memory. In each turn the four run once, in random order. Rates are
medians over turns, and so is PyTorch's rate over JAX's of the same turn, with its quartiles.
"""

import argparse
import os
import random
import time

import jax
import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.torch_models import DEVICE, use_the_device_of_jax

KERNELS = 8


def main():
    """The benchmark; prints a line for each kernel and direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=432, help="of the activations: the positions of a batch")
    parser.add_argument(
        "--kernels",
        default="576x576,576x192,576x1536,1536x576,768x768,768x3072,3072x768",
        help="inputs x outputs, several with commas",
    )
    parser.add_argument("--turns", type=int, default=31, help="after one that does not count")
    args = parser.parse_args()
    use_the_device_of_jax()
    where = machine(torch)
    print(f"{where['device']} ({where['processor']}), {where['cores']} cores, {where['versions']}, {args.rows} rows")
    for shape in args.kernels.split(","):
        inputs, outputs = map(int, shape.split("x"))
        rates = measure(args.rows, inputs, outputs, args.turns)
        for direction in ("forward", "backward"):
            print(describe(f"{shape} {direction}", rates["jax", direction], rates["torch", direction]), flush=True)


def measure(rows, inputs, outputs, turns):
    """FLOPs per second of each library and direction, turn by turn."""
    draw = np.random.default_rng(0)
    x, gradient = (draw.standard_normal((rows, width), np.float32) for width in (inputs, outputs))
    kernels = [draw.standard_normal((inputs, outputs), np.float32) for _ in range(KERNELS)]
    jax_kernels, torch_kernels = jax.device_put(kernels), [torch.from_numpy(one).to(DEVICE) for one in kernels]

    def in_jax(x, transposed):
        multiply = jax.jit(lambda x, kernels: [x @ (one.T if transposed else one) for one in kernels])
        return lambda: jax.block_until_ready(multiply(x, jax_kernels))

    def in_torch(x, transposed):
        def run():
            products = [x @ (one.T if transposed else one) for one in torch_kernels]  # all are kept, as in JAX
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            return products

        return run

    programs = {}
    for direction, rows_of in (("forward", x), ("backward", gradient)):
        transposed = direction == "backward"
        programs["jax", direction] = in_jax(jax.device_put(rows_of), transposed)
        programs["torch", direction] = in_torch(torch.from_numpy(rows_of).to(DEVICE), transposed)
    rates = {name: [] for name in programs}
    for turn in range(turns + 1):
        for name in random.Random(turn).sample(list(programs), len(programs)):
            start = time.perf_counter()
            programs[name]()
            rates[name].append(KERNELS * 2 * rows * inputs * outputs / (time.perf_counter() - start))
    return {name: np.array(values[1:]) for name, values in rates.items()}  # the first turn compiles


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
