import numpy as np
import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.glue.dataset import NO_LABEL, encode_glue, load_glue
from hut_jax.data.glue.tasks import GLUE_TASKS
from hut_jax.data.glue.tsv import GlueExample
from hut_jax.data.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    return load_tokenizer(folder)


def test_the_tasks_are_glues():
    metrics = {name: task.metrics for name, task in GLUE_TASKS.items()}
    assert metrics == {
        "cola": ("matthews",),
        "sst2": ("accuracy",),
        "mrpc": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
        "qqp": ("accuracy", "f1"),
        "mnli": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }
    assert [task.name for task in GLUE_TASKS.values() if task.regression] == ["stsb"]
    assert GLUE_TASKS["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert GLUE_TASKS["rte"].validation == ("validation",)


def test_a_folder_gives_its_splits_and_says_what_it_left_out(tmp_path):
    (tmp_path / "QQP").mkdir()
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    (tmp_path / "QQP" / "train.tsv").write_text(f"{header}1\t2\t3\tcut\n4\t5\t6\ta\tb\t1\n", encoding="utf-8")
    (tmp_path / "QQP" / "dev.tsv").write_text(f"{header}1\t2\t3\ta\tb\t0\n", encoding="utf-8")
    data = load_glue(GLUE_TASKS["qqp"], tmp_path)
    assert data.splits == {"train": [(("a", "b"), 1, 1)], "validation": [(("a", "b"), 0, 0)]}
    assert data.notes == (f"1 broken rows of {tmp_path}/QQP/train.tsv were left out, as TFDS leaves them out",)


def test_without_a_folder_it_is_tfds(monkeypatch):
    wanted = {"train": [GlueExample(("a",), 1, 0)]}
    monkeypatch.setattr(
        "hut_jax.data.glue.dataset.read_tfds", lambda task, cache_dir: wanted if cache_dir == "cache" else {}
    )
    assert load_glue(GLUE_TASKS["cola"], "", cache_dir="cache") == (wanted, ())


def test_examples_are_tokens_types_and_a_label(tokenizer):
    task = GLUE_TASKS["rte"]
    rows = [GlueExample(("a", "b c"), 1, 0), GlueExample(("a b", "c"), 0, 1), GlueExample(("a b c", "c"), 1, 2)]
    encoded, truncated = encode_glue(task, rows, tokenizer, 6)
    assert [encoded[i].tolist() for i in range(3)] == [
        [2, 5, 3, 6, 7, 3],
        [2, 5, 6, 3, 7, 3],
        [2, 5, 6, 3, 7, 3],
    ]
    assert truncated == 1
    assert encoded.labels.tolist() == [1, 0, 1]
    assert encoded.labels.dtype == np.int32
    assert encoded.pad_id == 0
    batch = encoded.assemble(np.array([0, 1]), 2, 6, 2)
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]])


def test_a_regressions_labels_are_floats_and_a_test_splits_are_none(tokenizer):
    values = encode_glue(GLUE_TASKS["stsb"], [GlueExample(("a", "b"), 2.5, 0)], tokenizer, 9)[0].labels
    assert (values.tolist(), values.dtype) == ([2.5], np.float32)
    unknown = encode_glue(GLUE_TASKS["cola"], [GlueExample(("a",), None, 0)], tokenizer, 9)[0].labels
    assert (unknown.tolist(), unknown.dtype) == ([NO_LABEL], np.int32)
    with pytest.raises(UserError, match="no examples of cola"):
        encode_glue(GLUE_TASKS["cola"], [], tokenizer, 9)
    with pytest.raises(UserError, match="max_length is 2; special tokens and one of each text take 3"):
        encode_glue(GLUE_TASKS["cola"], [GlueExample(("a",), 1, 0)], tokenizer, 2)
