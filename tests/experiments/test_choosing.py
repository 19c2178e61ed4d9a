"""How each adapter's learning rate is chosen, and what of it tables and pictures say."""

import math

import pytest

from experiments.analysis import at_best_learning_rates, choice_note, first_trials, to_frame
from experiments.choosing import FIRST, MOST, beyond, choose
from experiments.record import run_name
from hut_jax.core.errors import UserError

DIVERGED = -math.inf


@pytest.mark.parametrize(
    ("merits", "following"),
    [
        ({0.3: 1, 1: 2, 3: 1}, None),
        ({0.3: 1, 1: 2, 3: 3}, 10),
        ({0.3: 1, 1: 2, 3: 3, 10: 4}, 30),
        ({0.3: 3, 1: 2, 3: 1}, 0.1),
        ({0.1: 3, 0.3: 2, 1: 1}, 0.03),
        ({0.3: 1, 1: 2, 3: DIVERGED}, None),  # a learning rate that diverges is tried, too
        ({0.3: 1, 1: DIVERGED, 3: DIVERGED}, 0.1),
        ({0.3: DIVERGED, 1: DIVERGED, 3: DIVERGED}, 0.1),
        ({10.0**i: i for i in range(MOST - 1)}, 3e5),
        ({10.0**i: i for i in range(MOST)}, None),
    ],
)
def test_half_decades_are_added_until_the_best_is_inside_or_enough_were_tried(merits, following):
    assert beyond(merits) == following


@pytest.fixture
def runs(make):
    """Runs of a made-up study, whose loss depends on the learning rate; and which were asked for."""
    lowest = {"hut:rank=4": 1.0, "lora:rank=4": 30.0}
    asked = []

    def run(wanted):
        asked.append(wanted)
        return {
            (name := run_name(adapter, multiple, 1000)): make(
                adapter[:3], name=name, score=abs(math.log(multiple / lowest[adapter])), maximize=False
            )
            for adapter, multiple in wanted
            if multiple < 100
        }

    return run, asked


def test_each_adapter_begins_with_the_same_and_goes_on_to_its_own_best(runs):
    run, asked = runs
    adapters = ["hut:rank=4", "lora:rank=4"]
    best, tried = choose(adapters, [], run)
    assert best == {"hut:rank=4": 1.0, "lora:rank=4": 30.0}
    assert asked[0] == [(adapter, multiple) for multiple in FIRST for adapter in adapters]
    assert asked[1] == [("hut:rank=4", 0.3), ("lora:rank=4", 10.0)]
    assert asked[2:] == [[("lora:rank=4", multiple)] for multiple in (30, 100)]
    assert len(tried) == 7  # one diverged


def test_what_is_given_by_hand_is_tried_and_nothing_else(runs):
    run, asked = runs
    best, _ = choose(["lora:rank=4"], [0.1, 0.5], run)
    assert best == {"lora:rank=4": 0.5}
    assert asked == [[("lora:rank=4", 0.1), ("lora:rank=4", 0.5)]]
    with pytest.raises(UserError, match="hut:rank=4 diverges at each learning rate, 200, 300 times its own"):
        choose(["hut:rank=4"], [300.0, 200.0], run)


def at(make, multiple, seed, score, method="hut", holdout=0.0):
    name, config = f"{method},rank=4/{multiple:g}/{seed}", {"eval.holdout": holdout}
    return make(method, 4, seed, score, name=name, learning_rate=multiple / 100, config=config)


def test_runs_that_chose_are_not_reported_and_the_note_says_how_they_chose(make):
    trials = [at(make, multiple, 1000, score, holdout=0.1) for multiple, score in ((0.3, 0.5), (1, 0.9), (3, 0.7))]
    final = [at(make, 1, seed, 0.6) for seed in range(3)]
    runs = to_frame([*trials, *final])
    assert set(at_best_learning_rates(runs)["seed"]) == {0, 1, 2}
    assert list(first_trials(runs)["score"]) == [0.5, 0.9, 0.7]
    own = "Each adapter: at the best of its own learning rates, chosen with"
    by_hand = "at a learning rate given by hand (--rates), not chosen."
    fair = f"{own} another seed on 10 % of the training data."
    assert choice_note(runs) == fair
    edge = "The best is the lowest or highest that was tried for HUT, r = 4."
    assert choice_note(to_frame([*trials[1:], *final])) == f"{fair} {edge}"
    assert choice_note(to_frame(final)) == f"Each adapter: {by_hand}"
    other = [at(make, 3, seed, 0.6) for seed in range(3)]
    assert choice_note(to_frame([*trials, *other])) == f"Each adapter: {by_hand}"
    earlier = [at(make, 3, 0, 0.5), at(make, 0.3, 0, 0.5), *final]
    assert choice_note(to_frame(earlier)) == f"{own} the first seed on dev."
    mixed = [*trials, *final, *(at(make, 1, seed, 0.5, "lora") for seed in range(3))]
    assert choice_note(to_frame(mixed)) == (
        "HUT, r = 4: at the best of its own learning rates, chosen with another seed on 10 % of the training data. "
        f"LoRA, r = 4: {by_hand}"
    )
