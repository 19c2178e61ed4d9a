"""Compare LoRA training with Hugging Face PEFT on PyTorch, both in one process, in turns.

    python -m benchmarks.against_peft --data=FOLDER_WITH_E2E --tokenizer=GPT2_FOLDER
    python -m benchmarks.against_peft --data=FOLDER_WITH_E2E --tokenizer=GPT2_FOLDER --dtype=bfloat16 --compile
    python -m benchmarks.against_peft --data=FOLDER_WITH_E2E --tokenizer=SMOLLM2_FOLDER --size=smollm2

Both train a model with the shape of GPT-2 small, or of another --size, and the same random weights on the same E2E
examples, with the optimiser's settings of `configs/e2e.py`, a constant learning rate and no label smoothing. Each turn
starts with new factors. Before anything is timed, both must give the same mean loss for one batch.

There are two comparisons. "same batches": both get the same padded batches in the same order, already on the device.
The batches are ours and hold examples of similar lengths. PEFT runs in a plain PyTorch loop. "as used": PEFT runs in
`transformers.Trainer`, which draws examples at random and pads to the longest of a batch. Ours uses the input pipeline
of `hut_jax.train`, without its evaluations and checkpoints. Padding does not count in tokens per second. Ours computes
logits only where there is a label, and PEFT at every position, as each library does by itself.

In GPT-2 transformers keeps query, key and value in one kernel, c_attn. So PEFT has one pair of factors of rank 8 where
ours has three pairs. PEFT trains fewer parameters; both counts are printed. On a GPU JAX multiplies float32 in TF32 by
default, and PyTorch is told to do the same. With --pack ours is used with several examples in a row, as with
`config.data.pack`, and a step has as many rows as hold the examples of a batch.

What is not timed: passes over all shapes of batch, which compile ours, and a few steps of the Trainer. Below the table,
the report says how much longer a first pass took than a third one, and a second pass, which reads the compiled code
from disk. How fast each library multiplies large matrices is measured in the same turns: it differs between processors,
and limits both. Other work on the machine disturbs the two unequally. So the report has the load, and the ratio of
processor times beside that of elapsed times.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peft
import torch
import transformers

from benchmarks.machine import machine
from benchmarks.peft_training import ALPHA, RANK, TARGETS, Clock, Collator, Theirs, as_example, as_tensors
from benchmarks.torch_models import DEVICE, SIZES, random_model, use_the_device_of_jax
from hut_jax.config import freeze
from hut_jax.core.products import matmul
from hut_jax.data.batching import batch_dataset
from hut_jax.data.e2e.csv_files import FILES, read_records
from hut_jax.data.e2e.dataset import encode_e2e
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.runs import config_files
from hut_jax.runs.adapter_names import with_adapter
from hut_jax.runs.batches import training_batching
from hut_jax.runs.costs import make_steps, make_work
from hut_jax.runs.run import make_base
from hut_jax.training.evaluation import Evaluation


def main():
    """The benchmark; prints a table and at the end a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of E2E")
    parser.add_argument("--tokenizer", required=True, help="the folder of the model's tokenizer")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model")
    parser.add_argument("--targets", choices=TARGETS, default="attention", help="which kernels have factors, for both")
    parser.add_argument("--batch-size", type=int, default=8, help="examples in a step, for both")
    parser.add_argument("--steps", type=int, default=64, help="in a turn; our pipeline sorts 64 batches at a time")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--no-dropout", action="store_true", help="without GPT-2's dropout of 0.1")
    parser.add_argument("--scan-layers", action="store_true", help="ours: one compiled layer for all")
    parser.add_argument("--pack", type=int, default=0, help="ours, as used: tokens of a row of several examples")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the base")
    parser.add_argument("--compile", action="store_true", help="run PEFT under torch.compile")
    args = parser.parse_args()
    use_the_device_of_jax()
    transformers.utils.logging.disable_progress_bar()

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as compiled:
        jax.config.update("jax_compilation_cache_dir", compiled)  # empty: the report has the compilation time
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        names = () if SIZES[args.size]["model_type"] == "llama" else ("attn_pdrop", "embd_pdrop", "resid_pdrop")
        dropout = dict.fromkeys(names, 0.0 if args.no_dropout else 0.1)
        random_model(args.size, use_cache=False, **dropout).save_pretrained(folder)
        config = config_of(args, folder)
        ours, theirs = Ours(config), Theirs(config, args, folder)
        examples = examples_of(args, config)
        dataset = batch_dataset(examples, replace(training_batching(config), epochs=1))
        batches = list(dataset)
        losses = {"ours": ours.loss(batches[0]), "theirs": theirs.loss(batches[0])}
        # With random weights every token has nearly the same loss: wrong labels would change it by a few thousandths.
        exact = DEVICE == "cpu" and args.dtype == "float32"
        if abs(losses["ours"] / losses["theirs"] - 1) > (1e-5 if exact else 1e-3):
            sys.exit(f"error: the two do not compute the same: the loss of one batch is {losses}")
        if args.compile:
            theirs.model.compile()

        placed, tensors = jax.device_put(batches), [as_tensors(batch) for batch in batches]
        whole, collator = [as_example(examples, i) for i in range(len(examples))], Collator()
        first = first_of_each_shape(batches)
        compilation = compile_all(ours, [batches[i] for i in first])
        theirs.loop([tensors[i] for i in first])
        theirs.trainer(whole[: 4 * args.batch_size], Collator())
        used = pack(args, config, examples) if args.pack else dataset
        ours.train([used[i] for i in first_of_each_shape(used)])
        pipeline = used.to_iter_dataset()
        measured = measure(
            {
                "same batches": {"ours": partial(ours.train, placed), "theirs": partial(theirs.loop, tensors)},
                "as used": {"ours": partial(ours.train, pipeline), "theirs": partial(theirs.trainer, whole, collator)},
                "matrices": multiply(args.dtype),
            },
            args.repeats,
        )

    matrices = measured.pop("matrices")
    mask, used_mask = (np.concatenate([batch["attention_mask"].ravel() for batch in one]) for one in (batches, used))
    filled = {"same batches": [mask.mean()] * 2, "as used": [used_mask.mean(), collator.tokens / collator.positions]}
    report = machine(torch, transformers, peft) | vars(args)
    report |= {"torch_threads": torch.get_num_threads(), "shapes": len(first)}
    report |= {"trained": {"ours": ours.trained, "theirs": theirs.trained}, "losses": losses}
    report["compilation"] = compilation
    report["matrix_rates"] = {
        side: PRODUCTS / statistics.median(turn["seconds"] for turn in turns) for side, turns in matrices.items()
    }
    report["rows"] = {name: row_of(sides, int(mask.sum()), filled[name]) for name, sides in measured.items()}
    print(table(report))
    print(json.dumps(report))


def config_of(args, folder):
    """The config of E2E, with LoRA."""
    config = config_files.load_config_file(str(Path(__file__).parent.parent / "configs" / "e2e.py"))
    config.model, config.dtype = folder, args.dtype
    config.adapter.targets = (TARGETS[args.targets][0],)
    config.train.batch_size, config.train.dropout = args.batch_size, not args.no_dropout
    config.train.label_smoothing, config.train.scan_layers = 0.0, args.scan_layers
    return with_adapter(freeze(config), f"lora:rank={RANK}:alpha={ALPHA}")


def examples_of(args, config):
    """The training examples of E2E for a turn, drawn at random."""
    records = read_records(Path(args.data) / FILES["train"])
    chosen = np.random.default_rng(0).choice(len(records), args.steps * args.batch_size, replace=False)
    return encode_e2e([records[i] for i in chosen], load_tokenizer(args.tokenizer), config.data.max_length).sequences


def pack(args, config, examples):
    """The batches of a turn with several examples in each row: as many rows as hold the examples of a batch."""
    section = replace(config.data, pack=args.pack)
    rows = section.rows(examples, config.seed)
    size = max(1, round(args.batch_size * len(rows) / len(examples)))
    return batch_dataset(rows, replace(section.training(section.batching(size, config.seed)), epochs=1))


def first_of_each_shape(batches):
    """The indices of the first batch of each shape."""
    shapes = [(batch["input_ids"].shape, len(batch["labels"])) for batch in batches]
    return [shapes.index(shape) for shape in dict.fromkeys(shapes)]


def compile_all(ours, batches):
    """Seconds that a pass over batches of all shapes takes for compiling, and for reading what was compiled."""
    first = ours.train(batches)["seconds"]
    jax.clear_caches()
    second, third = (ours.train(batches)["seconds"] for _ in range(2))
    return {"first": first - third, "from disk": second - third}


PRODUCTS = 4 * 2 * 2048**3
"""The FLOPs of a turn of `multiply`."""


def multiply(dtype):
    """For each side, a function that multiplies large matrices and returns the record of the turn."""
    a = jnp.ones((2048, 2048), dtype)
    b = torch.ones((2048, 2048), dtype=getattr(torch, dtype), device=DEVICE)
    product = jax.jit(matmul)

    def run(once):
        once()
        clock = Clock()
        with clock:
            for _ in range(4):
                once()
        return clock.record(0.0)

    return {"ours": partial(run, lambda: jax.block_until_ready(product(a, a))), "theirs": partial(run, lambda: b @ b)}


class Ours:
    """Training with this library."""

    def __init__(self, config):
        work = make_work(config)
        adapter, self._steps = make_steps(config, work)
        self._params = make_base(config).load_base()
        self._factors = jax.jit(adapter.init)(jax.random.key(config.seed), self._params)
        self._evaluation = Evaluation(partial(adapter.apply, work.model), work.loss)
        self.trained = adapter.count(self._params).trainable

    def loss(self, batch):
        """The mean loss before training, without dropout."""
        return self._evaluation(self._params, self._factors, [batch]).loss

    def train(self, batches):
        """Take one step per batch. A step's figures are read while the next step runs, as in `training.loop`."""
        state = jax.block_until_ready(self._steps.init(self._factors))
        figures, pending, clock = [], None, Clock()
        with clock:
            for batch in batches:
                state, metrics = self._steps.train(state, self._params, [batch])
                if pending is not None:
                    figures.append({name: float(value) for name, value in pending.items()})
                pending = metrics
            jax.block_until_ready(state)
        return clock.record(statistics.mean([one["loss"] for one in figures] + [float(pending["loss"])]))


def measure(turns, repeats):
    """A record per turn, for each side of each comparison."""
    measured = {name: {side: [] for side in sides} for name, sides in turns.items()}
    for _ in range(repeats):
        for name, sides in turns.items():
            for side, run in sides.items():
                measured[name][side].append(run())
    return measured


def row_of(sides, tokens, filled):
    """The figures of one comparison."""

    def median(side, field):
        return statistics.median(one[field] for one in sides[side])

    def ratios(field):
        return [b[field] / a[field] for a, b in zip(sides["ours"], sides["theirs"], strict=True)]

    return {
        "rates": {side: tokens / median(side, "seconds") for side in sides},
        "losses": {side: median(side, "loss") for side in sides},
        "filled": dict(zip(sides, map(float, filled), strict=True)),
        "ratio": statistics.median(ratios("seconds")),
        "ratios": ratios("seconds"),
        "cpu_ratio": statistics.median(ratios("cpu")),
        "load": median("ours", "load"),
        "turns": sides,
    }


def table(report):
    """The report's rows in Markdown, and what both sides share."""
    head = ["", "ours, tokens/s", "PEFT, tokens/s", "ours / PEFT", "min to max over turns", "in processor time",
            "positions that hold a token, ours", "the same, PEFT", "mean training loss, ours", "the same, PEFT",
            "load"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in report["rows"].items():
        cells = [name, *(f"{rate:,.1f}" for rate in row["rates"].values()), f"{row['ratio']:.2f}"]
        cells += [f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}", f"{row['cpu_ratio']:.2f}"]
        cells += [f"{100 * share:.0f} %" for share in row["filled"].values()]
        cells += [*(f"{loss:.3f}" for loss in row["losses"].values()), f"{row['load']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    trained, compiling, loss = report["trained"], report["compilation"], report["losses"]
    rates = {side: 1e-9 * rate for side, rate in report["matrix_rates"].items()}
    lines.append(
        f"\n{SIZES[report['size']]['model_type']} {report['size']}, {report['dtype']}, "
        f"{report['steps']} steps of {report['batch_size']} in a turn, "
        f"{report['device']} ({report['processor']}), {report['cores']} cores, {report['torch_threads']} threads of "
        f"PyTorch; trainable parameters: ours {trained['ours']:,}, PEFT {trained['theirs']:,}; the first pass over "
        f"{report['shapes']} shapes of batch took {compiling['first']:.1f} s more than the third, the second, from "
        f"disk, {compiling['from disk']:.1f} s; products of large matrices: JAX {rates['ours']:.0f} GFLOP/s, PyTorch "
        f"{rates['theirs']:.0f}; before training the loss of one batch is {loss['ours']:.6f}, PEFT's "
        f"{loss['theirs']:.6f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
