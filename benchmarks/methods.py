"""What each method trains, and what its step costs: the table of README.

    python -m benchmarks.methods

GPT-2 small with random weights, HUT beside the other methods; `benchmarks.training` measures, and says how. The figures
go to results/methods.json. With `--show`, the table of that file is printed and nothing is measured.
"""

import argparse
import json
from pathlib import Path

from benchmarks import training
from hut_jax.core.files import write_json
from hut_jax.runs.machine import device_name

METHODS = "hut:rank=1,hut,lora,hira,dora:rank=8,ia3,ssf,bitfit,full"
NAMES = {"hut": "HUT", "lora": "LoRA", "hira": "HiRA", "dora": "DoRA", "ia3": "IA3", "ssf": "SSF", "bitfit": "BitFit",
         "full": "full fine-tuning"}  # fmt: skip


def main(argv=None):
    """Measure, write the record and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/methods.json"), help="the record")
    parser.add_argument("--show", action="store_true", help="print the table of the record, measure nothing")
    parser.add_argument("--model", choices=training.MODELS, default="gpt2-small")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args(argv)
    if not args.show:
        options = [
            f"--model={args.model}",
            f"--repeats={args.repeats}",
            f"--methods={METHODS}",
            "--ranks=8",
            "--scan-layers",
        ]
        report = training.measure_methods(training.make_parser().parse_args(options))
        write_json(args.output, report | {"device": device_name()})
    print(table(json.loads(args.output.read_text())))


def table(report):
    """The table of README, and what was measured where."""
    lines = ["| method | trainable | ms per step | MB |", "|---|--:|--:|--:|"]
    for name, row in report["rows"].items():
        if name == training.FROZEN:
            continue
        method, _, rank = name.partition(":rank=")
        lines.append(
            f"| {NAMES[method]}{f', r = {rank}' if rank else ''} | {row['trained']:,} | {1e3 * row['seconds']:,.0f} "
            f"| {1e-6 * row['memory']:,.0f} |"
        )
    lines.append(
        f"\n{report['model']}, {report['batch']} x {report['length']} tokens, {report['dtype']}, "
        f"{report['cores']} cores, {report['device']}, jax {report['versions']['jax']}, load {report['load'][0]:.1f}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
