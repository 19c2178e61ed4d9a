"""Compute the cost of adapters from shapes alone: python -m hut_jax.cost --config=configs/e2e.py --config.model=gpt2

The model is built from its config.json. No weights and no data are read. The table has a line for each adapter: its
trainable parameters, the FLOPs of a forward pass and of a training step, the FLOPs that the adapter adds by its
formulas, and the bytes of factors, optimiser state and checkpoint. docs/cost.md explains the columns.
"""

from collections.abc import Mapping, Sequence

from hut_jax.config import with_fields
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.costs.flops import Flops
from hut_jax.runs import config_files
from hut_jax.runs.adapter_names import with_adapter
from hut_jax.runs.costs import AdapterCost, adapter_cost, make_work

ADAPTERS = "hut:rank=1,hut:rank=8,lora,dora,hira,loha,ia3,ssf,bitfit,layernorm,full"
"""The adapters that are compared by default."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.cost", __doc__ or "")
    parser.add_argument("--batch", type=int, metavar="N", help="examples of a step; default: the config's batch_size")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of an example; default: the config's longest")
    parser.add_argument(
        "--adapters",
        default=ADAPTERS,
        metavar="LIST",
        help=f"names with their settings, as in hut:rank=8:spread=cyclic,lora; default: {ADAPTERS}. Adapters of "
        "dense layers act on the config's targets; adapters of whole parameters act on their own targets",
    )
    parser.add_argument("--xla", action="store_true", help="also compile, and show XLA's own count beside ours")
    args, config = config_files.parse_with_config(parser, argv)
    if args.batch is not None:
        config = with_fields(config, {"train.batch_size": args.batch})
    if args.length is not None and args.length < 1:
        raise UserError(f"--length is {args.length}; it must be at least 1")
    if args.xla and config.train.scan_layers:
        raise UserError("XLA counts a loop over layers once; --xla wants --config.train.scan_layers=False")
    configs = {text: with_adapter(config, text) for text in map(str.strip, args.adapters.split(","))}

    work = make_work(config, args.length)
    costs, left_out = {}, []
    for text, one in configs.items():
        try:
            costs[text] = adapter_cost(one, work, xla=args.xla)
        except UserError as error:
            if args.adapters != ADAPTERS or (not costs and text == [*configs][-1]):
                raise
            left_out.append(f"{text} is left out: {error}")  # such as bitfit where there are no biases

    batch, length = work.inputs["input_ids"].shape
    total = next(iter(costs.values())).count.total
    print(table(work.frozen, costs))
    for line in left_out:
        print(line)
    print(
        f"{config.model}: {total:,} parameters; {batch} examples of {length} tokens.\n"
        "x: times the frozen model's forward pass. On paper: what the adapter adds to the frozen model. "
        "See docs/cost.md."
    )
    return 0


def table(frozen: Flops, costs: Mapping[str, AdapterCost]) -> str:
    """A Markdown table with aligned columns."""
    head = ["adapter", "train", "%", "forward", "x", "step", "x", "+forward on paper", "+backward on paper"]
    head += ["factors, B", "optimiser, B", "checkpoint, B"]
    if any(cost.xla for cost in costs.values()):
        head += ["XLA forward", "ours / XLA", "XLA step", "ours / XLA"]
    rows = [["frozen", "0", "0", _si(frozen.flops), "1", *["-"] * (len(head) - 5)]]
    for text, cost in costs.items():
        row = [text, f"{cost.count.trainable:,}", f"{cost.count.percent:.3f}"]
        for ours in (cost.forward, cost.step):
            row += [_si(ours.flops), f"{ours.flops / frozen.flops:.4f}"]
        row += ["-", "-"] if cost.paper is None else [_si(cost.paper.forward), _si(cost.paper.backward)]
        row += [f"{size:,}" for size in (cost.factor_bytes, cost.optimizer_bytes, cost.checkpoint_bytes)]
        for ours, theirs in zip((cost.forward, cost.step), cost.xla or (), strict=False):
            row += [_si(theirs.flops), f"{ours.flops / theirs.flops:.4f}"]
        rows.append(row)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in [head, *rows]]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _si(number: int) -> str:
    """Four digits and a prefix, such as 2.037 G."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.4g} {prefix}"
    return str(number)


script = cli.script(main)

if __name__ == "__main__":
    script()
