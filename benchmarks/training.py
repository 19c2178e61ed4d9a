"""The time, memory and FLOPs of a training step of each method, measured in one run and in turns.

    python -m benchmarks.training --ranks=1,8
    python -m benchmarks.training --model=smollm2 --ranks=1,8 --scan-layers --targets=all
    python -m benchmarks.training --model=roberta-large --dtype=bfloat16 --batch=128 --length=128 --plot=steps.svg

Models have the named shape and random weights. A step includes dropout, clipping and AdamW, and every position of its
batch holds a token. `frozen` trains only one bias of the lowest layer, or of all layers if they are scanned; SmolLM2
has no biases, and a norm's scale trains. It shows the forward and backward pass that every method needs. A ratio is
taken within a turn: a method's time over that of LoRA of the same rank. The order within a turn is random. FLOPs are
counted from shapes (`hut_jax.costs.flops`). The column "% of matrix speed" compares FLOPs per second with those of
products of large matrices in the same turns. Memory is XLA's figure for the arguments and temporaries of the compiled
step. On a GPU the table also has the allocator's peak, measured for each method in a process of its own.
"""

import argparse
import atexit
import functools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peak is then what the step needs

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import machine
from hut_jax.config import freeze, with_fields
from hut_jax.costs.flops import count_flops
from hut_jax.models.attention import ATTENTION
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.layers import REMAT
from hut_jax.runs import config_files
from hut_jax.runs.adapter_names import with_adapter
from hut_jax.runs.costs import make_steps, make_work

GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024}
ROBERTA = {
    "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], "vocab_size": 50265,
    "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5,
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "max_position_embeddings": 8192,
    "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "gpt2-tiny": GPT2 | {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 500},
    "gpt2-small": GPT2 | {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "smollm2-tiny": SMOLLM2
    | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"intermediate_size": 96, "vocab_size": 500},
    "smollm2": SMOLLM2
    | {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    | {"intermediate_size": 1536},
    "llama-1b": SMOLLM2  # Llama 3.2's smallest
    | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
    | {"intermediate_size": 8192, "vocab_size": 128256, "head_dim": 64, "rope_theta": 500000.0},
    "roberta-base": ROBERTA
    | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "roberta-large": ROBERTA
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
TARGETS = {
    "query+value": "attention/(query|value)$",
    "all": "(attention/(query|key|value|out)|mlp/(gate|up|down))$",
}
RANKED = ("hut", "lora", "hira")
FROZEN = "frozen"


def main():
    """The benchmark; prints a table and at the end a JSON object."""
    parser = make_parser()
    args = parser.parse_args()
    if args.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    if args.peak_of:
        print(json.dumps(allocator_peak(args)))
        return
    report = measure_methods(args)
    print(table(report))
    if args.plot:
        plot(report, args.plot)
    print(json.dumps(report))


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="gpt2-small")
    parser.add_argument("--methods", default="hut,lora,hira,ia3,full,frozen", help="frozen and lora are always there")
    parser.add_argument("--ranks", default="1,4,8,16,64,256", help="of hut, lora and hira")
    parser.add_argument("--targets", choices=TARGETS, default="query+value", help="of hut, lora and hira")
    parser.add_argument("--dtype", default="float32", help="of the base and its computation")
    parser.add_argument("--remat", choices=REMAT, default="dots", help="what the backward pass recomputes")
    parser.add_argument("--scan-layers", action="store_true", help="one compiled layer for all")
    parser.add_argument(
        "--attention", choices=ATTENTION, default="xla", help="cudnn: on a GPU, in bfloat16, no dropout"
    )
    parser.add_argument("--batch", type=int, default=8, help="examples")
    parser.add_argument("--length", type=int, default=64, help="tokens of each")
    parser.add_argument("--steps", type=int, default=1, help="steps of a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each, after one that does not count")
    parser.add_argument("--plot", help="a picture of time and memory against rank, .svg or .png; needs matplotlib")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser


def measure_methods(args):
    """The report: machine, settings and a row for each method."""
    with tempfile.TemporaryDirectory() as cache:  # the steps compiled for analysis run without another compilation
        jax.config.update("jax_compilation_cache_dir", cache)
        _, base = build(args)
        cases = {name: make_case(args, name, base) for name in names(args)}
    seconds = measure(cases | {"matrices": product(args)}, args.repeats)
    rows = {name: row_of(name, case, seconds, args) for name, case in cases.items()}
    if jax.default_backend() == "gpu":
        for name, row in rows.items():
            row["allocator_peak"] = peak_in_a_child(name)
    return {
        **machine(),
        "matrix_rate": statistics.median(product_flops(args) / s for s in seconds["matrices"]),
        **vars(args),
        "rows": rows,
    }


def names(args):
    """The methods; a method with ranks has one entry for each rank."""
    wanted = dict.fromkeys([FROZEN, "lora", *args.methods.split(",")])
    ranks = args.ranks.split(",")
    return [
        name for method in wanted for name in ([f"{method}:rank={r}" for r in ranks] if method in RANKED else [method])
    ]


def build(args):
    """The model and its random weights."""
    model = make_work(config_of(args, FROZEN), args.length).model
    return model, jax.jit(lambda: init_params(model, jax.random.key(0), dtype=model.dtype))()


def config_of(args, name):
    """The config of a run with this method."""
    config = config_files.load_config_file("configs/glue.py:mrpc" if "roberta" in args.model else "configs/e2e.py")
    config.model, config.dtype, config.train.batch_size = folder_of(args.model), args.dtype, args.batch
    config.train.remat, config.train.attention, config.train.scan_layers = args.remat, args.attention, args.scan_layers
    config.adapter.also_train = ()
    if name == FROZEN:
        kind, leaf = (
            ("layernorm", "attention_norm/scale")
            if MODELS[args.model]["model_type"] == "llama"
            else ("bitfit", "attention/value/bias")
        )
        return with_fields(with_adapter(freeze(config), kind), {"adapter.targets": (f"^layer(s|_0)/{leaf}$",)})
    own = with_adapter(freeze(config), name)
    return with_fields(own, {"adapter.targets": (TARGETS[args.targets],)}) if name.split(":")[0] in RANKED else own


@functools.cache
def folder_of(model):
    """A folder with the model's config.json."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    (Path(folder) / "config.json").write_text(json.dumps(MODELS[model]))
    return folder


def make_case(args, name, base):
    """A function that runs one turn of the method; its attributes hold FLOPs, memory and trainable parameters."""
    config = config_of(args, name)
    work = make_work(config, args.length)
    adapter, steps = make_steps(config, work)
    state = steps.init(adapter.init(jax.random.key(0), base))
    batch = jax.tree.map(random_of(work.model.config.vocab_size), dict(work.batches[0]))
    compiled = [lowered.compile().memory_analysis() for lowered in steps.lower(state, base, batch)]

    def run():
        nonlocal state
        for _ in range(args.steps):
            state, metrics = steps.train(state, base, [batch])
        jax.block_until_ready((state, metrics))

    run.flops = count_flops(steps.train, state, base, [batch]).flops
    run.memory = max(one.argument_size_in_bytes + one.output_size_in_bytes - one.alias_size_in_bytes
                     + one.temp_size_in_bytes for one in compiled)  # fmt: skip
    run.trained = adapter.count(base).trainable
    return run


def random_of(vocab):
    """A function from an array's shape to an array: ones for masks and weights, random numbers for integers."""
    draw = np.random.default_rng(0)

    def one(leaf):
        if leaf.dtype != jnp.int32:
            return np.ones(leaf.shape, leaf.dtype)
        return draw.integers(0, min(vocab, leaf.size), leaf.shape).astype(np.int32)

    return one


def product_flops(args):
    """The FLOPs of a product of large matrices."""
    return 2 * 2048**3 * (1 if jax.default_backend() == "cpu" else 64)


def product(args):
    """A function that multiplies large matrices."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), args.dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(multiply(a, a))


def measure(turns, repeats):
    """The seconds of every turn of each method; the order is drawn for every round."""
    seconds = {name: [] for name in turns}
    order = list(turns)
    for turn in range(repeats + 1):
        random.Random(turn).shuffle(order)
        for name in order:
            start = time.perf_counter()
            turns[name]()
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row_of(name, case, seconds, args):
    """The figures of one method."""
    own = seconds[name]
    peers = [one for one in seconds if one.startswith("lora")]
    peer = next((one for one in peers if one.split(":")[1:] == name.split(":")[1:]), peers[0])  # of the same rank
    ratios = {
        other: sorted(a / b for a, b in zip(own, seconds[other], strict=True)) for other in (peer, FROZEN, "matrices")
    }
    step = statistics.median(own) / args.steps
    rate = product_flops(args) * statistics.median(1 / s for s in seconds["matrices"])
    return {
        "seconds": step,
        "spread": [min(own) / args.steps, max(own) / args.steps],
        "peer": peer,
        "against_peer": statistics.median(ratios[peer]),
        "against_peer_spread": [ratios[peer][len(own) // 4], ratios[peer][-1 - len(own) // 4]],
        "against_frozen": statistics.median(ratios[FROZEN]),
        "tokens_per_second": args.batch * args.length / step,
        "flops": case.flops,
        "share_of_matrix_rate": case.flops / step / rate,
        "memory": case.memory,
        "trained": case.trained,
    }


def table(report):
    """The report's rows in Markdown."""
    head = ["", "ms", "min to max", "time / LoRA of the same rank (quartiles)", "time / frozen", "tokens/s",
            "GFLOP", "% of matrix speed", "memory, MB", "memory / LoRA", "trainable parameters"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in report["rows"].items():
        low, high = row["against_peer_spread"]
        peak = row.get("allocator_peak")
        cells = [
            name,
            f"{1e3 * row['seconds']:.1f}",
            " to ".join(f"{1e3 * s:.1f}" for s in row["spread"]),
            f"{row['against_peer']:.3f} ({low:.3f} to {high:.3f})",
            f"{row['against_frozen']:.3f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{1e-9 * row['flops']:.1f}",
            f"{100 * row['share_of_matrix_rate']:.0f} %",
            f"{1e-6 * row['memory']:,.0f}" + (f", allocator {1e-6 * peak:,.0f}" if peak else ""),
            f"{row['memory'] / report['rows'][row['peer']]['memory']:.3f}",
            f"{row['trained']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    how = f"remat {report['remat']}, attention {report['attention']}" + (", scanned" if report["scan_layers"] else "")
    lines.append(
        f"\n{report['model']}, {report['targets']}, {report['dtype']}, {how}, "
        f"{report['batch']} x {report['length']} tokens, {report['device']}, {report['cores']} cores; "
        f"products of large matrices: {1e-9 * report['matrix_rate']:.0f} "
        f"GFLOP/s; load {report['load'][0]:.1f}"
    )
    return "\n".join(lines)


def peak_in_a_child(name):
    """The allocator's peak in a process that trains with this method alone."""
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], f"--peak-of={name}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def allocator_peak(args):
    """The allocator's peak in this process."""
    make_case(args, args.peak_of, build(args)[1])()
    return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]


def plot(report, path):
    """Draw time and memory against rank: a curve for each method with ranks, a horizontal line for each without."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = dict(
        zip(
            ["hut", "lora", "hira", "ia3", "full", FROZEN],
            ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#999999"],
            strict=True,
        )
    )
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    for axis, field, scale, label in zip(axes, ("seconds", "memory"), (1e3, 1e-6), ("ms per step", "MB"), strict=True):
        for method, color in colors.items():
            rows = {name: row for name, row in report["rows"].items() if name.split(":")[0] == method}
            if method in RANKED and rows:
                ranks = [int(name.split("=")[1]) for name in rows]
                axis.plot(ranks, [scale * row[field] for row in rows.values()], "o-", color=color, label=method)
            elif rows:
                axis.axhline(scale * rows[method][field], color=color, linestyle="--", label=method)
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("rank", fontsize=13)
        axis.set_ylabel(label, fontsize=13)
        axis.tick_params(labelsize=12)
    axes[0].legend(fontsize=11)
    figure.suptitle(f"{report['model']}, {report['targets']}, {report['dtype']}, {report['device']}", fontsize=13)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
