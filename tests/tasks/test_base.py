"""What all tasks share."""

import numpy as np

from hut_jax.data.labelled_texts import LabelledTexts
from hut_jax.data.sequences import Sequences
from hut_jax.runs.run import make_parts
from hut_jax.tasks.base import Task

SEQUENCES = Sequences.from_lists([[i, i + 1, i + 2] for i in range(10)], [1, 2] * 5)
LABELLED = LabelledTexts([[i, 7] for i in range(5)], [[0, 1]] * 5, np.arange(5, dtype=np.int32), pad_id=1)


def test_the_config_says_by_how_many(small_config):
    small_config.eval.max_examples = 3
    assert len(make_parts(small_config).task.validation["validation"]) == 3


def judged(most: int) -> dict:
    splits = {"one": SEQUENCES, "other": LABELLED}
    task = Task(SEQUENCES, splits, lambda *_, **__: None, lambda _: {})
    return dict(task.judged_by(most).validation)


def test_a_task_is_judged_by_examples_from_the_first_to_the_last_of_each_split():
    splits = judged(4)
    assert [one.tolist() for one in splits["one"]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert splits["one"].loss_start.tolist() == [1, 2, 1, 2]
    assert [one.tolist() for one in splits["other"]] == [[0, 7], [1, 7], [2, 7], [4, 7]]
    batch = splits["other"].assemble(np.arange(4), 4, 2, 4)
    assert batch["labels"].tolist() == [0, 1, 2, 4]
    assert batch["token_type_ids"].tolist() == [[0, 1]] * 4


def test_of_0_and_of_more_than_there_are_it_is_judged_by_all():
    assert judged(0) == {"one": SEQUENCES, "other": LABELLED}
    assert [len(split) for split in judged(7).values()] == [7, 5]
