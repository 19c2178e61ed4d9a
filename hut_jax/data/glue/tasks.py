"""The tasks of GLUE (Wang et al., arXiv 1804.07461, 2018): their files, columns, labels and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class GlueTask:
    """One task's names, columns, labels and metrics.

    Attributes:
        name: the task's name in TFDS and in this project.
        folder: the name of its folder in the official download.
        texts: the column of the text, or the columns of both texts -> their names in TFDS.
        label: the column of the label.
        labels: the names of classes 0, 1, ..., in the order of TFDS and Hugging Face; none for regression.
        named: whether files and the test server write a label as its name, and not as its number.
        metrics: GLUE's metrics for the task. The score is their mean.
        files: split -> file.
        submission: test split -> the file that the test server expects; default: the split `test`, and the folder's
            name.
        header: whether the labelled files have a header line.
        index: the column of the test files that numbers the rows.
        broken_lines: whether the official files hold rows that were cut by line breaks within a text.
        low: the smallest label of a regression.
        high: the largest label of a regression.
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

    def __post_init__(self):
        if not self.submission:
            object.__setattr__(self, "submission", {"test": f"{self.folder}.tsv"})

    @property
    def regression(self) -> bool:
        """Whether the label is a number."""
        return not self.labels

    @property
    def validation(self) -> tuple[str, ...]:
        """The splits that are evaluated: one, or for MNLI the matched and the mismatched one."""
        return tuple(split for split in self.files if split.startswith("validation"))


_SENTENCE = {"sentence": "sentence"}
_SENTENCES = {"sentence1": "sentence1", "sentence2": "sentence2"}
_STRINGS = {"#1 String": "sentence1", "#2 String": "sentence2"}
_QUESTIONS = {"question1": "question1", "question2": "question2"}
_PREMISE = {"sentence1": "premise", "sentence2": "hypothesis"}
_QUESTION = {"question": "question", "sentence": "sentence"}
_ENTAILMENT = ("entailment", "not_entailment")
_ACCEPTABLE = ("unacceptable", "acceptable")
_EQUIVALENT = ("not_equivalent", "equivalent")
_DUPLICATE = ("not_duplicate", "duplicate")
_BOTH = ("accuracy", "f1")

_TASKS = (
    # Whether a sentence is grammatical. The labelled files have columns for source, label, the author's mark, sentence.
    GlueTask("cola", "CoLA", _SENTENCE, labels=_ACCEPTABLE, metrics=("matthews",), header=False),
    # Whether a film review is positive.
    GlueTask("sst2", "SST-2", _SENTENCE, labels=("negative", "positive")),
    # Whether two sentences mean the same.
    GlueTask("mrpc", "MRPC", _STRINGS, label="Quality", labels=_EQUIVALENT, metrics=_BOTH),
    # How similar two sentences are, from 0 to 5.
    GlueTask("stsb", "STS-B", _SENTENCES, label="score", metrics=("pearson", "spearman")),
    # Whether two questions ask the same.
    GlueTask("qqp", "QQP", _QUESTIONS, "is_duplicate", labels=_DUPLICATE, metrics=_BOTH, index="id", broken_lines=True),
    # Whether the first sentence entails the second: matched, on the genres of the training data, and mismatched.
    GlueTask(
        "mnli",
        "MNLI",
        _PREMISE,
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
    GlueTask("qnli", "QNLI", _QUESTION, labels=_ENTAILMENT, named=True),
    # Whether the first text entails the second.
    GlueTask("rte", "RTE", _SENTENCES, labels=_ENTAILMENT, named=True),
    # The same, for a text and a copy of it with a pronoun resolved.
    GlueTask("wnli", "WNLI", _SENTENCES, labels=("not_entailment", "entailment")),
)

GLUE_TASKS = {task.name: task for task in _TASKS}
"""Every task by its name."""
