"""The E2E challenge's five scores of a system's outputs.

BLEU and NIST are those of the challenge's mteval-v13a; METEOR, ROUGE-L and CIDEr are those of coco-caption (Dušek,
Novikova and Rieser, Computer Speech & Language 2020). Files are TSV or CSV with MRs, or plain text with one output
a line; docs/metrics.md has the rules. METEOR needs Java and the package pycocoevalcap, and is null without them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hut_jax.metrics.e2e import java, ptb
from hut_jax.metrics.e2e.bleu import bleu
from hut_jax.metrics.e2e.cider import cider
from hut_jax.metrics.e2e.meteor import meteor
from hut_jax.metrics.e2e.mteval import count_references, match_outputs
from hut_jax.metrics.e2e.nist import nist
from hut_jax.metrics.e2e.rouge import rouge_l
from hut_jax.metrics.statistics import Statistics

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
