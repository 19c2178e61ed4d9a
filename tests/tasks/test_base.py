"""What all tasks share."""

import dataclasses

import numpy as np
import pytest

from hut_jax.config import freeze, set_task
from hut_jax.core.errors import UserError
from hut_jax.data.e2e.restaurants import write_restaurants
from hut_jax.data.labelled_texts import LabelledTexts
from hut_jax.data.sequences import Sequences
from hut_jax.runs.run import make_run
from hut_jax.tasks import TASKS, GeneratesText, PredictsLabels, ScoresTexts, TaskData, task_named

SEQUENCES = Sequences.from_lists([[i, i + 1, i + 2] for i in range(10)], [1, 2] * 5)
LABELLED = LabelledTexts([[i, 7] for i in range(5)], [[0, 1]] * 5, np.arange(5, dtype=np.int32), pad_id=1)


def test_the_config_says_by_how_many(small_config):
    small_config.eval.max_examples = 3
    assert len(make_run(freeze(small_config)).load_data().validation["validation"]) == 3


@pytest.mark.parametrize(("task", "field"), [("e2e", "max_length"), ("lm", "block")])
def test_an_example_too_long_for_the_model_names_the_tasks_own_field(task, field, small_config, tmp_path):
    if task == "lm":
        set_task(small_config, "lm")
        small_config.data.text = str(tmp_path / "text.txt")
        (tmp_path / "text.txt").write_text("there was a diner by the river and it was good to eat there. " * 3000)
        small_config.data.block = 1500
        small_config.data.holdout = 0.3
    run = make_run(freeze(small_config))
    model = run.model.clone(config=dataclasses.replace(run.model.config, n_positions=8))
    with pytest.raises(UserError, match=rf"at most 8; lower config\.data\.{field}$"):
        dataclasses.replace(run, model=model).load_data()


@pytest.mark.parametrize("task", TASKS)
def test_a_section_says_how_its_examples_become_batches(task):
    data = TASKS[task].data_section(length_multiple=32)
    batching = data.batching(4, seed=3)
    assert (batching.batch_size, batching.seed, batching.length_multiple) == (4, 3, 32)
    assert batching.slot_multiple == getattr(data, "slot_multiple", 8)
    assert data.longest == getattr(data, data.length_field)
    assert data.cut_notes(0) == ()
    assert data.cut_notes(2) == (f"2 examples were cut to config.data.{data.length_field}, {data.longest} tokens",)


def test_what_is_held_out_takes_the_validation_splits_place():
    lengths = [2, 3, 2, 9, 3, 2, 2, 3, 2, 2]
    examples = Sequences.from_lists([[i] * length for i, length in enumerate(lengths)], [1] * 10)
    data = TaskData(examples, {"one": SEQUENCES, "other": SEQUENCES}, ("a note",), np.arange(10) // 2)
    assert data.hold_out(0.0) is data
    held = data.hold_out(0.4)

    def first(split):
        return [example[0].item() for example in split]

    # Two groups of five; that of the longest, 2 and 3, is not among them.
    assert [first(held.validation["one"]), first(held.validation["other"])] == [[0, 8], [1, 9]]
    assert first(held.train) == [2, 3, 4, 5, 6, 7]
    assert held.groups.tolist() == [1, 1, 2, 2, 3, 3]
    assert held.notes == ("a note",)
    alone = dataclasses.replace(data, groups=None).hold_out(0.2)
    assert [first(one) for one in alone.validation.values()] == [[0], [9]]
    with pytest.raises(UserError, match=r"config\.eval\.holdout=0\.1 would leave no .* has 2 groups of examples"):
        dataclasses.replace(data, groups=np.arange(10) // 5).hold_out(0.1)


def test_texts_of_one_meaning_representation_are_held_out_together(small_config, tmp_path):
    write_restaurants(tmp_path, seed=0, train=1, validation=16, test=1)
    (tmp_path / "devset.csv").replace(tmp_path / "trainset.csv")  # four texts of each
    write_restaurants(tmp_path / "other", seed=1, train=1, validation=1, test=1)
    (tmp_path / "other/devset.csv").replace(tmp_path / "devset.csv")
    small_config.data.dir, small_config.data.cache = str(tmp_path), str(tmp_path / "cache")
    run = make_run(freeze(small_config))
    whole = run.load_data()
    small_config.eval.holdout = 0.25
    held = make_run(freeze(small_config)).load_data()

    def prompts(split):
        return {tuple(split[i][: split.loss_start[i]].tolist()) for i in range(len(split))}

    train, validation = prompts(held.train), prompts(held.validation["validation"])
    assert (len(train), len(validation)) == (12, 4)  # of 16 restaurants
    assert train | validation == prompts(whole.train)
    assert len(held.train) + len(held.validation["validation"]) == len(whole.train) > 16
    assert run.load_data().longest == held.longest


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

    assert able(GeneratesText) == {"e2e", "chat", "lm"}
    assert able(ScoresTexts) == {"e2e"}
    assert able(PredictsLabels) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert TASKS.keys() == able(GeneratesText) | able(PredictsLabels) | {"mlm"}


def test_more_of_a_signed_score_is_better():
    assert task_named("cola").signed_score({"score": 0.5}) > task_named("cola").signed_score({"score": 0.4})
    assert task_named("e2e").signed_score({"loss": 0.5}) < task_named("e2e").signed_score({"loss": 0.4})


def test_a_misspelt_task_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"config.task is 'colla'; did you mean 'cola'"):
        task_named("colla")
