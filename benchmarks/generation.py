"""Compare beam search with transformers' `generate` on PyTorch, both in one run, in turns.

    python -m benchmarks.generation
    python -m benchmarks.generation --data=FOLDER_WITH_E2E --tokenizer=GPT2_FOLDER --batch-sizes=8,16 --repeats=5
    python -m benchmarks.generation --size=smollm2 --batch-sizes=8
    python -m benchmarks.generation --size=smollm2 --batch-sizes=8 --dtype=bfloat16

Both run a model with the shape of GPT-2 small, or of another --size, and the same random weights. Beams, length penalty
and n-grams are those of E2E. There is no end token, so both write every token. The report also has the floor: the speed
of the products with the weights alone, measured in the same turns, with their FLOPs and bytes. Other work on the
machine disturbs the two unequally. So the report has the load, and the ratio of processor times beside that of elapsed
times. On a GPU JAX multiplies float32 in TF32 by default, and PyTorch is told to do the same. In bfloat16 rounding
chooses between candidates that are nearly equal, so that few outputs of the two are the same.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks.machine import machine
from benchmarks.torch_models import DEVICE, SIZES, random_model, use_the_device_of_jax
from hut_jax.core.products import einsum, on_matrix_units
from hut_jax.data.e2e.csv_files import read_records
from hut_jax.data.e2e.dataset import encode_prompts
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.generation import Beam, Constraints, generate
from hut_jax.models.compute import Compute
from hut_jax.models.hub.pretrained import load_pretrained

PAD = 0


def main():
    """The benchmark; prints one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model")
    parser.add_argument("--batch-sizes", default="8,16", help="prompts at once, for both")
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each, after one that does not count")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model, for both")
    parser.add_argument("--data", help="the folder of E2E; without it prompts are random tokens of E2E's usual lengths")
    parser.add_argument("--tokenizer", help="the folder of the model's tokenizer; needed with --data")
    args = parser.parse_args()
    use_the_device_of_jax()

    theirs = random_model(args.size).eval()
    theirs.generation_config.eos_token_id = theirs.generation_config.bos_token_id = None
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        model, params = load_pretrained(folder, compute=Compute(dtype=getattr(jnp, args.dtype)))
    theirs.to(DEVICE, getattr(torch, args.dtype))

    everything = prompts_of(args, theirs.config.vocab_size)
    report = machine(torch, transformers) | vars(args) | {"rows": []}
    for batch in map(int, args.batch_sizes.split(",")):
        prompts = everything[:batch]
        turns = {
            "ours": lambda prompts=prompts: our_tokens(model, params, prompts, args),
            "theirs": lambda prompts=prompts: their_tokens(theirs, prompts, args),
            "floor": products(params, batch * args.beams, args.new_tokens),
        }
        row = measure(turns, args.repeats) | {"batch": batch, "load": os.getloadavg()}
        row["rates"] = {name: batch * args.new_tokens / seconds for name, seconds in row["seconds"].items()}
        weights = sum(leaf.size for leaf in matrices(params))
        row["gflop_a_token"] = 2e-9 * weights * args.beams
        row["weight_megabytes_a_token"] = 1e-6 * jnp.dtype(args.dtype).itemsize * weights / batch
        report["rows"].append(row)
        print(describe(row), flush=True)
    best = {name: max(row["rates"][name] for row in report["rows"]) for name in ("ours", "theirs")}
    ratio = best["ours"] / best["theirs"]
    print(f"each at its best batch size: {best['ours']:.1f} against {best['theirs']:.1f} tokens/s, {ratio:.2f} times")
    print(json.dumps(report | {"best": best}))


def describe(row):
    """A row of the report as a sentence."""
    rates, turns = row["rates"], row["turns"]["theirs"]
    return (
        f"batch {row['batch']}: {rates['ours']:.1f} tokens/s, transformers {rates['theirs']:.1f}, so "
        f"{row['ratios']['theirs']:.2f} times (turn by turn {min(turns):.2f} to {max(turns):.2f}; in processor time "
        f"{row['cpu_ratios']['theirs']:.2f}); the floor is {rates['floor']:.1f}, {1 / row['ratios']['floor']:.2f} "
        f"times ours (in processor time {1 / row['cpu_ratios']['floor']:.2f}): {row['gflop_a_token']:.2f} GFLOP and "
        f"{row['weight_megabytes_a_token']:.0f} MB of weights per token; {100 * row['same']:.0f} % of the outputs are "
        f"the same; load {row['load'][0]:.1f}"
    )


def prompts_of(args, vocab):
    """Prompts in random order: those of E2E's test set, or random tokens."""
    random = np.random.default_rng(0)
    if args.data:
        mrs = dict.fromkeys(record.mr for record in read_records(Path(args.data) / "testset_w_refs.csv"))
        prompts = encode_prompts(list(mrs), load_tokenizer(args.tokenizer))
        return [prompts[i] for i in random.permutation(len(prompts))]
    return [random.integers(1, vocab, length).tolist() for length in random.integers(30, 52, 256)]


def measure(turns, repeats):
    """The median seconds of each, their ratios to ours, and the share of outputs that are the same."""
    seconds, cpu, outputs = ({name: [] for name in turns} for _ in range(3))
    for _ in range(repeats + 1):
        for name, run in turns.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            outputs[name] = run()
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)

    def ratios(measured):  # the first turn compiles, and does not count
        return {name: [a / b for a, b in zip(measured[name], measured["ours"], strict=True)][1:] for name in turns}

    def medians(measured):
        return {name: statistics.median(values) for name, values in measured.items()}

    same = [a == b for a, b in zip(outputs["ours"], outputs["theirs"], strict=True)]
    return {
        "seconds": medians({name: values[1:] for name, values in seconds.items()}),
        "turns": ratios(seconds),
        "ratios": medians(ratios(seconds)),
        "cpu_ratios": medians(ratios(cpu)),
        "same": sum(same) / len(same),
    }


def our_tokens(model, params, prompts, args):
    """The tokens of our beam search."""
    constraints = Constraints(args.new_tokens, None, no_repeat_ngram=4, ngrams_see_prompt=True)
    found = generate(model, params, prompts, Beam(args.beams, 0.9), constraints, batch_size=len(prompts))
    return [one.tokens for one in found]


def their_tokens(model, prompts, args):
    """The tokens of transformers' beam search."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    out = model.generate(
        ids, attention_mask=mask, num_beams=args.beams, max_new_tokens=args.new_tokens, length_penalty=0.9,
        no_repeat_ngram_size=4, do_sample=False, pad_token_id=PAD,
    )  # fmt: skip
    return out[:, longest:].tolist()


def matrices(params):
    """The weights by which every token is multiplied: those of the dense layers and the tied head."""
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    return [*kernels, params["token_embedding"]["embedding"].T]


def products(params, rows, steps):
    """A function that multiplies this many rows by each of the weights, as decoding has them, once per step.

    In bf16 on a CPU without matrix units XLA converts the weights to fp32 in each step, and decoding does so only once.
    """
    weights = matrices(params)
    inputs = {width: jnp.ones((rows, width), weights[0].dtype) for width in {weight.shape[0] for weight in weights}}
    exchanged = on_matrix_units() and weights[0].dtype == jnp.bfloat16
    equation, summed = ("nd,kd->nk", 1) if exchanged else ("nd,dk->nk", 0)
    weights = [weight.T for weight in weights] if exchanged else weights

    @jax.jit
    def once(weights, inputs):
        return [einsum(equation, inputs[weight.shape[summed]], weight) for weight in weights]

    def run():
        for _ in range(steps):
            jax.block_until_ready(once(weights, inputs))

    return run


if __name__ == "__main__":
    main()
