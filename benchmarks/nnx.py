"""What an adapter adds to a training step of an NNX model, beside what it adds to the same model in Linen.

    python -m benchmarks.nnx
    python -m benchmarks.nnx --width=768 --layers=12 --heads=12 --batch=8 --length=64 --times

The two models are made of Flax's own layers and have the same parameters. A step is compiled as one function of arrays,
so Flax's dispatch of an NNX model is in no figure. `frozen` trains one bias alone, of the lowest layer's value. What an
adapter adds is the step's figure less that of `frozen`. FLOPs, bytes moved and memory are XLA's for the compiled step.
`merge` is the Linen model on `adapter.merge(params, factors)`, as any JAX model trains. With --times the steps run in
turns, in a random order, and the table has the median.
"""

import argparse
import json
import statistics

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import hut_jax.nnx
from benchmarks.machine import machine
from benchmarks.training import measure
from hut_jax import HUT, Adapter, LoRA
from hut_jax.core.trees import flatten, unflatten

METHODS = {"hut:rank=8": HUT(rank=8), "hut:rank=1": HUT(rank=1), "lora:rank=8": LoRA(rank=8)}
TARGETS = {"query+value": "(query|value)$", "all": "(query|key|value|out|up|down)$"}
FROZEN = "frozen"


def main():
    """The benchmark; prints a table and at the end a JSON object."""
    args = make_parser().parse_args()
    steps = make_steps(args)
    rows = {name: figures(compiled) for name, (compiled, _) in steps.items()}
    if args.times:
        for name, seconds in measure({name: run for name, (_, run) in steps.items()}, args.repeats).items():
            rows[name]["seconds"] = statistics.median(seconds)
    print(table(rows))
    print(json.dumps({**machine(), **vars(args), "rows": {"/".join(key): row for key, row in rows.items()}}))


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 256), ("layers", 4), ("heads", 4), ("batch", 8), ("length", 64), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--targets", choices=TARGETS, default="query+value")
    parser.add_argument("--times", action="store_true", help="run the steps, too")
    return parser


class LinenModel(nn.Module):
    """Blocks of a transformer, of Linen's own layers."""

    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, x):
        """From `[batch, length, width]` to the same."""
        for i in range(self.layers):
            attention = nn.MultiHeadDotProductAttention(num_heads=self.heads, name=f"attention_{i}")
            x = x + attention(nn.LayerNorm(name=f"norm_a_{i}")(x))
            y = nn.Dense(4 * self.width, name=f"up_{i}")(nn.LayerNorm(name=f"norm_b_{i}")(x))
            x = x + nn.Dense(self.width, name=f"down_{i}")(nn.gelu(y))
        return x


class NNXModel(nnx.Module):
    """The same, of NNX's own layers."""

    def __init__(self, width, layers, heads, rngs):
        self.count = layers
        for i in range(layers):
            attention = nnx.MultiHeadAttention(num_heads=heads, in_features=width, decode=False, rngs=rngs)
            setattr(self, f"attention_{i}", attention)
            setattr(self, f"norm_a_{i}", nnx.LayerNorm(width, rngs=rngs))
            setattr(self, f"norm_b_{i}", nnx.LayerNorm(width, rngs=rngs))
            setattr(self, f"up_{i}", nnx.Linear(width, 4 * width, rngs=rngs))
            setattr(self, f"down_{i}", nnx.Linear(4 * width, width, rngs=rngs))

    def __call__(self, x):
        """From `[batch, length, width]` to the same."""
        for i in range(self.count):
            x = x + getattr(self, f"attention_{i}")(getattr(self, f"norm_a_{i}")(x))
            y = getattr(self, f"up_{i}")(getattr(self, f"norm_b_{i}")(x))
            x = x + getattr(self, f"down_{i}")(nnx.gelu(y))
        return x


def make_steps(args):
    """The compiled step, and a function that runs it, by method and kind of model."""
    model = NNXModel(args.width, args.layers, args.heads, nnx.Rngs(0))
    linen = LinenModel(args.width, args.layers, args.heads)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    graph, base = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), (args.batch, args.length, args.width))
    y = jax.random.normal(jax.random.key(1), x.shape)
    lowest = ("attention_0", "value", "bias")

    def with_lowest(params, trained):
        return unflatten({**flatten(params), lowest: trained})

    def frozen_linen(trained, params, x):
        return linen.apply({"params": with_lowest(params, trained)}, x)

    def frozen_nnx(trained, base, x):
        model = nnx.merge(graph, base, copy=True)
        model.attention_0.value.bias.set_value(trained)
        return model(x)

    start = params["attention_0"]["value"]["bias"]
    cases = {
        (FROZEN, "linen"): (frozen_linen, start, params, optax.adamw(1e-3)),
        (FROZEN, "nnx"): (frozen_nnx, start, base, optax.adamw(1e-3)),
    }
    for name, transform in METHODS.items():
        adapter = Adapter(transform, TARGETS[args.targets])
        factors = adapter.init(jax.random.key(2), params)
        optimizer = adapter.optimizer(optax.adamw, 1e-3, params=params)

        def by_apply(factors, params, x, adapter=adapter):
            return adapter.apply(linen, params, factors, x)

        def by_merge(factors, params, x, adapter=adapter):
            return linen.apply({"params": adapter.merge(params, factors)}, x)

        adapted = hut_jax.nnx.adapt(model, adapter, factors=factors)
        parts, state, rest = nnx.split(adapted, hut_jax.nnx.Factors, ...)

        def by_nnx(state, rest, x, parts=parts):
            return nnx.merge(parts, state, rest, copy=True)(x)

        cases[name, "linen"] = (by_apply, factors, params, optimizer)
        cases[name, "nnx"] = (by_nnx, state, rest, optimizer)
        cases[name, "merge"] = (by_merge, factors, params, optimizer)
    return {key: compile_step(x, y, *case) for key, case in cases.items()}


def compile_step(x, y, forward, trained, base, optimizer):
    """The compiled step, and a function that takes one."""

    def step(trained, state, base, x, y):
        gradient = jax.grad(lambda trained: jnp.mean((forward(trained, base, x) - y) ** 2))(trained)
        updates, state = optimizer.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state

    state = optimizer.init(trained)
    compiled = jax.jit(step).lower(trained, state, base, x, y).compile()
    return compiled, lambda: jax.block_until_ready(compiled(trained, state, base, x, y))


def figures(compiled):
    """XLA's own figures of a compiled step."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "memory": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
    }


def table(rows):
    """What each adapter adds, in Markdown."""
    names = [name for name in ("flops", "bytes", "memory", "seconds") if name in next(iter(rows.values()))]
    units = {
        "flops": (1e-9, "GFLOP"),
        "bytes": (1e-9, "GB moved"),
        "memory": (1e-6, "memory, MB"),
        "seconds": (1e3, "ms"),
    }
    head = ["added to the step", *(f"{units[name][1]}: {kind}" for name in names for kind in ("Linen", "NNX", "ratio"))]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in METHODS:
        for kind in ("nnx", "merge"):
            cells = [method if kind == "nnx" else f"{method}, by merge"]
            for name in names:
                reference = rows[method, "linen"][name] - rows[FROZEN, "linen"][name]
                own = rows[method, kind][name] - rows[FROZEN, "linen" if kind == "merge" else kind][name]
                cells += [f"{units[name][0] * reference:.3f}", f"{units[name][0] * own:.3f}", f"{own / reference:.3f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
