"""The E2E challenge's five scores: python -m hut_jax.metrics.e2e --outputs=FILE --references=FILE

BLEU and NIST are those of the challenge's mteval-v13a; METEOR, ROUGE-L and CIDEr are those of coco-caption (Dušek,
Novikova and Rieser, Computer Speech & Language 2020). Files are TSV or CSV with MRs, or plain text with one output
a line; docs/metrics.md has the rules. METEOR needs Java and the package pycocoevalcap, and is null without them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hut_jax.errors import UserError
from hut_jax.metrics import java, ptb
from hut_jax.metrics.bleu import bleu
from hut_jax.metrics.bootstrap import LEVEL, compare, interval
from hut_jax.metrics.cider import cider
from hut_jax.metrics.e2e_files import (
    Outputs,
    References,
    align,
    in_order_of,
    read_outputs,
    read_references,
    unanswered,
)
from hut_jax.metrics.meteor import meteor
from hut_jax.metrics.mteval import count_references, match_outputs
from hut_jax.metrics.nist import nist
from hut_jax.metrics.rouge import rouge_l
from hut_jax.metrics.sums import Statistics

METRICS = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


@dataclass(frozen=True)
class Evaluation:
    """What the metrics make of a system's outputs.

    Attributes:
        statistics: each metric's sums; a metric that could not be had is not there.
        reasons: why not, for each of those.
        tokenizer: whose words ROUGE-L and CIDEr are made of: `"java"`, the original, or `"python"`.
    """

    statistics: Mapping[str, Statistics]
    reasons: Mapping[str, str]
    tokenizer: str

    def scores(self) -> dict[str, float | None]:
        """Of all outputs, by the names in `METRICS`; None where there is a reason."""
        return {name: self.statistics[name].score() if name in self.statistics else None for name in METRICS}

    def segment_scores(self) -> list[dict[str, float | None]]:
        """Of each output alone, in their order."""
        columns = {name: statistics.segment_scores().tolist() for name, statistics in self.statistics.items()}
        count = len(next(iter(columns.values())))
        return [{name: columns[name][i] if name in columns else None for name in METRICS} for i in range(count)]


def evaluate(outputs: Sequence[str], references: Sequence[Sequence[str]], *, use_java: bool = True) -> Evaluation:
    """Score outputs against their references.

    Args:
        outputs: texts, one for each MR.
        references: for each of them, at least one text.
        use_java: run Java where it is there; False is as if it were not.

    Raises:
        UserError: there is no output, not as many groups of references, or a group that is empty.
    """
    segments = match_outputs(outputs, count_references(references))
    words, wanted, tokenizer, reason = _tokenized(outputs, references, use_java)
    statistics = {
        "BLEU": bleu(segments),
        "NIST": nist(segments),
        "ROUGE_L": rouge_l(words, wanted),
        "CIDEr": cider(words, wanted),
    }
    if not reason:
        try:
            statistics["METEOR"] = meteor(words, wanted)
        except java.Unavailable as unavailable:
            reason = str(unavailable)
    return Evaluation(statistics, {"METEOR": reason} if reason else {}, tokenizer)


def _tokenized(
    outputs: Sequence[str], references: Sequence[Sequence[str]], use_java: bool
) -> tuple[list[str], list[list[str]], str, str]:
    """The texts as coco-caption's words, whose tokenizer it was, and why it was not Java's."""
    texts = [_one_line(text) for text in outputs]
    flat = [_one_line(text) for group in references for text in group]
    words, others, tokenizer, reason = None, [], "python", "Java was not to be used"
    if use_java:
        try:
            words, others, tokenizer, reason = java.tokenize(texts), java.tokenize(flat), "java", ""
        except java.Unavailable as unavailable:
            reason = str(unavailable)
    if words is None:
        words, others = ptb.tokenize(texts), ptb.tokenize(flat)
    rest = iter(others)
    return words, [[next(rest) for _ in group] for group in references], tokenizer, reason


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    from hut_jax import cli  # only as a command this stands above the library

    parser = cli.Parser("hut_jax.metrics.e2e", __doc__ or "")
    parser.add_argument("--outputs", required=True, metavar="FILE", help="a system's outputs: .tsv, .csv or plain text")
    parser.add_argument("--references", required=True, metavar="FILE", help="the references: .csv, .tsv or plain text")
    parser.add_argument("--against", metavar="FILE", help="another system's outputs, to test the difference with")
    parser.add_argument("--segments", action="store_true", help="each output's scores as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap; 1000 if not given")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resampling; 0 if not given")
    args = parser.parse_args(argv)
    for name, least, most in (("resamples", 1, 1_000_000), ("seed", 0, 2**63)):
        if not least <= getattr(args, name) <= most:
            raise UserError(f"--{name}={getattr(args, name)}; {least} to {most:,} is wanted")

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
    """A system's outputs, once it is known that they go with the references."""
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
    """The result as lines to read, and the segments' scores as TSV after them."""
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
    from hut_jax import cli

    cli.run(main)
