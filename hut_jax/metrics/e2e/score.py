"""The E2E challenge's five scores of a system's outputs.

BLEU and NIST are those of the challenge's mteval-v13a. METEOR, ROUGE-L and CIDEr are those of coco-caption (Dušek,
Novikova and Rieser, Computer Speech & Language 2020). METEOR needs Java and the package pycocoevalcap.
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
class TextScores:
    """The metrics of a system's outputs.

    Attributes:
        statistics: of each metric that could be computed.
        reasons: why the others could not.
        tokenizer: the tokenizer of ROUGE-L and CIDEr: `"java"`, the original, or `"python"`.
    """

    statistics: Mapping[str, Statistics]
    reasons: Mapping[str, str]
    tokenizer: str

    def scores(self) -> dict[str, float | None]:
        """The scores of all outputs, by the names in `METRICS`; None for a metric that could not be computed."""
        return {name: self.statistics[name].score() if name in self.statistics else None for name in METRICS}

    def segment_scores(self) -> list[dict[str, float | None]]:
        """The scores of each output alone, in order."""
        columns = {name: statistics.segment_scores().tolist() for name, statistics in self.statistics.items()}
        count = len(next(iter(columns.values())))
        return [{name: columns[name][i] if name in columns else None for name in METRICS} for i in range(count)]


def evaluate(outputs: Sequence[str], references: Sequence[Sequence[str]], *, use_java: bool = True) -> TextScores:
    """Score outputs against their references.

    Args:
        outputs: one text for each MR.
        references: at least one text for each output.
        use_java: whether to run Java if it is there.

    Raises:
        UserError: there are no outputs, not as many groups of references, or a group is empty.
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
    return TextScores(statistics, {"METEOR": reason} if reason else {}, tokenizer)


def _tokenized(
    outputs: Sequence[str], references: Sequence[Sequence[str]], use_java: bool
) -> tuple[list[str], list[list[str]], str, str]:
    """The texts in coco-caption's words, the name of the tokenizer, and why it was not Java's."""
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
