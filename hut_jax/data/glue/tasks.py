"""The tasks of GLUE (Wang et al., arXiv 1804.07461, 2018): their files, columns, labels and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class GlueTask:
    """What is known of one task before its data is read.

    Attributes:
        name: as TFDS and this project call it.
        folder: as the official download calls its folder.
        texts: the columns of the text, or of the two texts, and what TFDS calls them.
        label: the column of the label.
        labels: the names of classes 0, 1, ..., in the order of TFDS and Hugging Face; none for regression.
        named: whether files, and the test server, write a label as its name; or else as its number.
        metrics: GLUE's own; the score is their mean.
        files: split -> file.
        submission: test split -> the file that the test server wants.
        header: whether the labelled files have one; without it, a column is known by its number.
        index: the test files' column that numbers the rows.
        broken_lines: whether the official files hold rows that were cut by line breaks within a text.
        low: the least value of a regression's label.
        high: the greatest.
    """

    name: str
    folder: str
    texts: Mapping[str, str]
    label: str = "label"
    labels: tuple[str, ...] = ()
    named: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    files: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    )
    submission: Mapping[str, str] = field(default_factory=dict)
    header: bool = True
    index: str = "index"
    broken_lines: bool = False
    low: float = 0.0
    high: float = 5.0

    @property
    def regression(self) -> bool:
        """Whether the label is a number to come close to."""
        return not self.labels

    @property
    def validation(self) -> tuple[str, ...]:
        """The splits to judge by: one, or for MNLI the matched one and the mismatched one."""
        return tuple(split for split in self.files if split.startswith("validation"))


_SENTENCE = {"sentence": "sentence"}
_SENTENCES = {"sentence1": "sentence1", "sentence2": "sentence2"}
_ENTAILMENT = ("entailment", "not_entailment")

_TASKS = (
    # Whether a sentence is grammatical. The labelled files have columns for source, label, the author's mark, sentence.
    GlueTask(
        "cola",
        "CoLA",
        _SENTENCE,
        labels=("unacceptable", "acceptable"),
        metrics=("matthews",),
        submission={"test": "CoLA.tsv"},
        header=False,
    ),
    # Whether a film review praises.
    GlueTask("sst2", "SST-2", _SENTENCE, labels=("negative", "positive"), submission={"test": "SST-2.tsv"}),
    # Whether one sentence says what the other does.
    GlueTask(
        "mrpc",
        "MRPC",
        {"#1 String": "sentence1", "#2 String": "sentence2"},
        label="Quality",
        labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        submission={"test": "MRPC.tsv"},
    ),
    # How alike two sentences are, from 0 to 5.
    GlueTask(
        "stsb", "STS-B", _SENTENCES, label="score", metrics=("pearson", "spearman"), submission={"test": "STS-B.tsv"}
    ),
    # Whether two questions ask the same.
    GlueTask(
        "qqp",
        "QQP",
        {"question1": "question1", "question2": "question2"},
        label="is_duplicate",
        labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        submission={"test": "QQP.tsv"},
        index="id",
        broken_lines=True,
    ),
    # Whether the first sentence entails the second: matched, on the genres of the training data, and mismatched.
    GlueTask(
        "mnli",
        "MNLI",
        {"sentence1": "premise", "sentence2": "hypothesis"},
        label="gold_label",
        labels=("entailment", "neutral", "contradiction"),
        named=True,
        files={
            "train": "train.tsv",
            "validation_matched": "dev_matched.tsv",
            "validation_mismatched": "dev_mismatched.tsv",
            "test_matched": "test_matched.tsv",
            "test_mismatched": "test_mismatched.tsv",
        },
        submission={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
    ),
    # Whether a sentence answers a question.
    GlueTask(
        "qnli",
        "QNLI",
        {"question": "question", "sentence": "sentence"},
        labels=_ENTAILMENT,
        named=True,
        submission={"test": "QNLI.tsv"},
    ),
    # Whether the first text entails the second.
    GlueTask("rte", "RTE", _SENTENCES, labels=_ENTAILMENT, named=True, submission={"test": "RTE.tsv"}),
    # The same, of a text and its copy with a pronoun resolved.
    GlueTask("wnli", "WNLI", _SENTENCES, labels=("not_entailment", "entailment"), submission={"test": "WNLI.tsv"}),
)

GLUE_TASKS = {task.name: task for task in _TASKS}
