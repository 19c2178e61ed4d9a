"""The E2E challenge's five scores: python -m hut_jax.metrics.e2e --outputs=FILE --references=FILE

BLEU and NIST are those of the challenge's mteval-v13a. METEOR, ROUGE-L and CIDEr are those of coco-caption (Dušek,
Novikova and Rieser, Computer Speech & Language 2020). Files are TSV or CSV with MRs, or plain text with one output on
each line; docs/metrics.md has the rules. METEOR needs Java and the package pycocoevalcap, and is null without them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.metrics.bootstrap import LEVEL, compare, interval
from hut_jax.metrics.e2e.files import (
    Outputs,
    References,
    align,
    in_order_of,
    read_outputs,
    read_references,
    unanswered,
)
from hut_jax.metrics.e2e.score import METRICS, evaluate


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.metrics.e2e", __doc__ or "")
    parser.add_argument("--outputs", required=True, metavar="FILE", help="a system's outputs: .tsv, .csv or plain text")
    parser.add_argument("--references", required=True, metavar="FILE", help="the references: .csv, .tsv or plain text")
    parser.add_argument("--against", metavar="FILE", help="another system's outputs, to compare with")
    parser.add_argument("--segments", action="store_true", help="print the scores of each output too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples of the bootstrap (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the resampling (default: 0)")
    args = parser.parse_args(argv)
    for name, least, most in (("resamples", 1, 1_000_000), ("seed", 0, 2**63)):
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name}={getattr(args, name)}; {least} to {most:,} is expected")

    references = read_references(args.references)
    outputs = _read_aligned(args.outputs, references)
    ours, theirs = evaluate(*align(outputs, references)), None
    if args.against is not None:
        others = in_order_of(outputs, _read_aligned(args.against, references), references)
        theirs = evaluate(*align(others, references))
    result: dict[str, Any] = {
        **ours.scores(),
        "reasons": dict(ours.reasons),
        "tokenizer": ours.tokenizer,
        "level": LEVEL,
        "resamples": args.resamples,
        "seed": args.seed,
        "intervals": {name: interval(s, args.resamples, args.seed) for name, s in ours.statistics.items()},
    }
    if theirs is not None:
        result["against"] = theirs.scores()
        result["differences"] = {
            name: asdict(compare(ours.statistics[name], theirs.statistics[name], args.resamples, args.seed))
            for name in METRICS
            if name in ours.statistics and name in theirs.statistics
        }
    if args.segments:
        result["segments"] = ours.segment_scores()
    print(json.dumps(result, indent=2) if args.json else _report(result))
    return 0


def _read_aligned(path: str, references: References) -> Outputs:
    """A system's outputs, checked against the references."""
    outputs = read_outputs(path)
    try:
        align(outputs, references)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    missing = unanswered(outputs, references)
    if missing:
        print(f"note: {path} has no output for {len(missing)} MRs, such as {missing[0]!r}", file=sys.stderr)
    return outputs


def _report(result: Mapping[str, Any]) -> str:
    """The result as text, followed by the segments' scores as TSV."""
    lines = []
    for name in METRICS:
        line = f"{name:<8}"
        if name in result["reasons"]:
            lines.append(f"{line}none: {result['reasons'][name]}")
            continue
        low, high = result["intervals"][name]
        line += f"{result[name]:.4f}  {result['level']:.0%} {low:.4f} to {high:.4f}"
        if name in result.get("differences", ()):
            c = result["differences"][name]
            line += f"   against {result['against'][name]:.4f}: {c['difference']:+.4f}"
            line += f"  {c['low']:+.4f} to {c['high']:+.4f}  p = {c['p_value']:.4f}"
        lines.append(line)
    if "segments" in result:
        lines += ["", "\t".join(["segment", *METRICS])]
        for i, scores in enumerate(result["segments"], start=1):
            lines.append("\t".join([str(i), *(f"{s:.4f}" if s is not None else "" for s in scores.values())]))
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
