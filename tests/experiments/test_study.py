"""Which runs a study makes, and at which learning rates."""

import jax
import pytest

from experiments.record import read_record, write_record
from experiments.results import write_study
from experiments.study import check, configs_of, default_jobs, make_run, make_trial, plan, restore
from hut_jax import UserError, fingerprint
from hut_jax.config import flatten_config, freeze, with_fields
from hut_jax.runs import config_files
from hut_jax.runs.run import make_base
from hut_jax.transforms import LoRA


@pytest.fixture
def config():
    return freeze(config_files.load_config_file("configs/glue.py:mrpc"))


def test_a_run_has_its_adapter_seed_and_multiple_of_the_adapters_own_learning_rate(config):
    name, own = make_run(config, "lora:rank=4", 0.5, 2)
    assert name == "lora,rank=4/0.5/2"
    assert own.adapter.make_adapter().transform == LoRA(rank=4)
    assert own.train.learning_rate == 0.5 * LoRA.learning_rate
    assert (own.seed, own.train.epochs, own.adapter.also_train) == (2, 30, config.adapter.also_train)
    assert config.adapter.name == "hut"


def test_the_head_alone_trains_what_would_train_beside_an_adapter(config):
    name, own = make_run(config, "head", 2.0, 0)
    assert name == "head/2/0"
    assert (own.adapter.name, own.adapter.targets, own.adapter.also_train) == ("full", config.adapter.also_train, ())
    assert own.train.learning_rate == 2 * config.train.also_train_learning_rate
    with pytest.raises(UserError, match="also_train names no module"):
        make_run(freeze(config_files.load_config_file("configs/quickstart.py")), "head", 1.0, 0)


def test_what_is_no_adapter_is_refused(config):
    with pytest.raises(UserError, match="unknown transformation 'hot'"):
        make_run(config, "hot", 1.0, 0)


def test_a_run_that_chooses_is_shorter_and_scored_on_training_data(config):
    name, own = make_trial(
        config,
        "lora:rank=4",
        0.3,
    )
    assert name == "lora,rank=4/0.3/1000"
    _, usual = make_run(config, "lora:rank=4", 0.3, 1000)
    differing = {field for field, value in flatten_config(own).items() if flatten_config(usual)[field] != value}
    assert differing == {"train.epochs", "eval.holdout", "eval.every"}
    assert (own.train.epochs, own.eval.holdout) == (7.5, 0.1)
    _, short = make_trial(with_fields(config, {"train.steps": 16, "train.warmup": 6.0}), "lora:rank=4", 0.3)
    assert (short.train.steps, short.train.warmup) == (4, 1.5)


def test_the_plan_is_in_words():
    by_itself = plan(["hut:rank=1", "lora:rank=1"], [], [0, 1, 2], (50, 100))
    assert "each of 2 adapters tries 1, 3 times its method's own, and further" in by_itself
    assert "4 runs of 50 steps to begin with" in by_itself
    assert "at the best: 6 runs of 100 steps, seeds 0, 1, 2" in by_itself
    assert "about as long as 8 runs of 100 steps" in by_itself
    several = plan(["hut:rank=1"], [0.1, 1.0], [0], (50, 100))
    assert "tries 0.1, 1 times its method's own: 2 runs of 50 steps. " in several
    one = plan(["hut:rank=1"], [0.1], [0], (50, 100))
    assert "0.1 times each method's own, given by hand" in one
    assert "50 steps" not in one
    assert "about as long as 1 runs of 100 steps" in one


def test_two_runs_at_a_time_on_a_processor(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    assert [default_jobs([], platform) for platform in ("cpu", "gpu", "tpu")] == [2, 1, 1]
    assert default_jobs(["0", "1", "2"], "gpu") == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(1))
    assert default_jobs([], "cpu") == 1


@pytest.mark.full
def test_what_would_stop_a_run_is_told_before_any(small_config, glue_config, tmp_path):
    def configs(*adapters):
        return [make_run(freeze(small_config), adapter, 1.0, 0)[1] for adapter in adapters]

    text = tmp_path / "text.txt"
    text.write_text("there was a diner by the river and it was good to eat there. " * 100)
    found = check(configs("hut:rank=1", "lora:rank=2"), str(text))
    assert found.base == fingerprint(make_base(freeze(small_config)).load_base())
    assert (found.platform, found.steps) == (jax.default_backend(), (3, 12))
    with pytest.raises(UserError, match="rank 7"):
        check(configs("hut:rank=1", "hut:rank=7"), "")
    with pytest.raises(UserError, match=r"missing\.txt"):
        check(configs("hut:rank=1"), str(tmp_path / "missing.txt"))
    text.write_text("too short")
    with pytest.raises(UserError, match=r"the text gives . tokens"):
        check(configs("hut:rank=1"), str(text))
    with pytest.raises(UserError, match="--text: forgetting is a causal language model's, and 'cola' has none"):
        check([freeze(glue_config)], str(text))
    glue_config.data.dir = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        check([freeze(glue_config)], "")


def test_one_adapter_by_two_names_and_a_seed_that_is_none_are_refused(config):
    assert len(configs_of(config, ["hut", "hut:rank=4"], [1.0], [0])) == 2
    with pytest.raises(UserError, match="hut and hut:rank=8 are the same adapter; name it once"):
        configs_of(config, ["hut", "hut:rank=8"], [1.0], [0])
    with pytest.raises(UserError, match="seed"):
        configs_of(config, ["hut"], [1.0], [0, 5_000_000_000])


def test_what_a_studys_jsonl_holds_stands_in_a_new_workdir(make, tmp_path):
    theirs, ours = make(seed=0), make(seed=1, score=0.7)
    write_study(tmp_path / "study.jsonl", [theirs, make(seed=1, score=0.1)])
    (tmp_path / "runs" / ours.name).mkdir(parents=True)
    write_record(tmp_path / "runs" / ours.name, ours)
    restore(tmp_path / "study.jsonl", tmp_path / "runs")
    assert [read_record(tmp_path / "runs" / one.name) for one in (theirs, ours)] == [theirs, ours]
