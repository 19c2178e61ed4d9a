"""What all tasks share."""

import numpy as np
import pytest

from hut_jax.config import freeze
from hut_jax.core.errors import UserError
from hut_jax.data.labelled_texts import LabelledTexts
from hut_jax.data.sequences import Sequences
from hut_jax.runs.run import make_run
from hut_jax.tasks import TASKS, GeneratesText, PredictsLabels, ScoresTexts, TaskData, task_named

SEQUENCES = Sequences.from_lists([[i, i + 1, i + 2] for i in range(10)], [1, 2] * 5)
LABELLED = LabelledTexts([[i, 7] for i in range(5)], [[0, 1]] * 5, np.arange(5, dtype=np.int32), pad_id=1)


def test_the_config_says_by_how_many(small_config):
    small_config.eval.max_examples = 3
    assert len(make_run(freeze(small_config)).load_data().validation["validation"]) == 3


def validation(most: int) -> dict:
    splits = {"one": SEQUENCES, "other": LABELLED}
    return dict(TaskData(SEQUENCES, splits).limit_validation(most).validation)


def test_a_limited_validation_has_examples_from_the_first_to_the_last_of_each_split():
    splits = validation(4)
    assert [one.tolist() for one in splits["one"]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert splits["one"].loss_start.tolist() == [1, 2, 1, 2]
    assert [one.tolist() for one in splits["other"]] == [[0, 7], [1, 7], [2, 7], [4, 7]]
    batch = splits["other"].assemble(np.arange(4), 4, 2, 4)
    assert batch["labels"].tolist() == [0, 1, 2, 4]
    assert batch["token_type_ids"].tolist() == [[0, 1]] * 4


def test_a_limit_of_0_or_of_more_than_there_are_keeps_all():
    assert validation(0) == {"one": SEQUENCES, "other": LABELLED}
    assert [len(split) for split in validation(7).values()] == [7, 5]


def test_the_abilities_of_each_task():
    def able(ability):
        return {name for name, task in TASKS.items() if isinstance(task, ability)}

    assert able(GeneratesText) == {"e2e", "lm"}
    assert able(ScoresTexts) == {"e2e"}
    assert able(PredictsLabels) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert TASKS.keys() == able(GeneratesText) | able(PredictsLabels) | {"mlm"}


def test_more_of_a_signed_score_is_better():
    assert task_named("cola").signed_score({"score": 0.5}) > task_named("cola").signed_score({"score": 0.4})
    assert task_named("e2e").signed_score({"loss": 0.5}) < task_named("e2e").signed_score({"loss": 0.4})


def test_a_misspelt_task_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"config.task is 'colla'; did you mean 'cola'"):
        task_named("colla")
