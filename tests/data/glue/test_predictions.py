import csv

import numpy as np
import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.glue.predictions import write_predictions
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.data.glue.tsv import GlueExample

EXAMPLES = [GlueExample(("a",), None, row) for row in (3, 0, 1)]


@pytest.mark.parametrize(
    ("name", "split", "file", "predictions", "written"),
    [
        ("cola", "test", "CoLA.tsv", [1, 0, 1], ["1", "0", "1"]),
        ("sst2", "test", "SST-2.tsv", [0, 0, 1], ["0", "0", "1"]),
        ("mrpc", "test", "MRPC.tsv", [1, 0, 1], ["1", "0", "1"]),
        ("qqp", "test", "QQP.tsv", [1, 0, 1], ["1", "0", "1"]),
        ("wnli", "test", "WNLI.tsv", [1, 0, 1], ["1", "0", "1"]),
        ("rte", "test", "RTE.tsv", [1, 0, 1], ["not_entailment", "entailment", "not_entailment"]),
        ("qnli", "test", "QNLI.tsv", [1, 0, 1], ["not_entailment", "entailment", "not_entailment"]),
        ("mnli", "test_matched", "MNLI-m.tsv", [2, 0, 1], ["contradiction", "entailment", "neutral"]),
        ("mnli", "test_mismatched", "MNLI-mm.tsv", [0, 0, 1], ["entailment", "entailment", "neutral"]),
        ("stsb", "test", "STS-B.tsv", [-0.2, 5.3, 2.1234567], ["0.000000", "5.000000", "2.123457"]),
    ],
)
def test_a_file_is_what_the_test_server_reads(tmp_path, name, split, file, predictions, written):
    path = write_predictions(tmp_path / "out", GLUE_TASKS[name], split, EXAMPLES, np.array(predictions))
    assert path == tmp_path / "out" / file
    assert [entry.name for entry in path.parent.iterdir()] == [file]
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t"))
    assert rows == [["index", "prediction"], *map(list, zip(["3", "0", "1"], written, strict=True))]


def test_the_nine_tasks_make_ten_files():
    files = [file for task in GLUE_TASKS.values() for file in task.submission.values()]
    assert len(set(files)) == 10


@pytest.mark.parametrize(
    ("name", "split", "predictions", "message"),
    [
        ("rte", "test", [0, 1, 2], "the prediction for row 1 of rte is 2; a class from 0 to 1 is expected"),
        ("rte", "test", [0, 1], "2 predictions for 3 examples of rte's test"),
        ("stsb", "test", [1.0, float("nan"), 2.0], "the prediction for row 0 of stsb is nan; a number is expected"),
        ("mnli", "test", [0, 1, 2], "mnli has no test split 'test'; did you mean 'test_matched'?"),
        ("rte", "validation", [0, 1, 0], "rte has no test split 'validation'; valid: 'test'"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before(tmp_path, name, split, predictions, message):
    with pytest.raises(UserError) as caught:
        write_predictions(tmp_path, GLUE_TASKS[name], split, EXAMPLES, predictions)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*RTE\.tsv: "):
        write_predictions(tmp_path / "file", GLUE_TASKS["rte"], "test", EXAMPLES, [0, 1, 0])
