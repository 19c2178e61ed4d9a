from pathlib import Path

import pytest

from hut_jax import HUT, Full, LoRA
from hut_jax.config import default_config, from_json, resolve, set_transform, to_json, validate
from hut_jax.core.errors import UserError
from hut_jax.runs import config_files

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path):
    validate(config_files.load_config_file(f"{path}:cola" if path.stem == "glue" else str(path)))


def test_a_config_is_the_same_after_json():
    config = default_config()
    config.adapter.ranks = (("mlp/", 4), ("attention/", 8))
    again = from_json(to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.adapter.ranks == (("mlp/", 4), ("attention/", 8))


def test_another_transformation_brings_its_own_settings_and_no_others():
    config = default_config()
    set_transform(config, "full")
    assert set(config.adapter) == {"name", "targets", "exclude", "ranks", "layout", "also_train", "start"}
    set_transform(config, "hut", rank=4)
    assert (config.adapter.rank, config.adapter.spread) == (4, "block")
    with pytest.raises(UserError, match="full has no setting 'rank'"):
        set_transform(config, "full", rank=4)


def test_a_misspelt_transformation_is_answered_with_the_nearest():
    config = default_config()
    with pytest.raises(UserError, match="unknown transformation 'lorra'; did you mean 'lora'"):
        set_transform(config, "lorra")
    with pytest.raises(UserError, match="dora has no setting 'ranks'; did you mean 'rank'"):
        set_transform(config, "dora", ranks=2)


def test_rates_that_are_left_to_the_transformation_are_its_own():
    config = default_config()
    assert resolve(config).train.learning_rate == HUT.learning_rate
    set_transform(config, "lora")
    assert resolve(config).train.learning_rate == LoRA.learning_rate
    assert resolve(config).train.also_train_learning_rate == Full.learning_rate
    assert config.train.learning_rate == 0
    config.train.learning_rate = 0.5
    assert resolve(config).train.learning_rate == 0.5


def test_a_misspelt_field_is_refused_where_it_is_set():
    with pytest.raises(AttributeError, match="stps"):
        default_config().train.stps = 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.batch_size", 0, r"config.train.batch_size is 0; it must be at least 1"),
        ("train.label_smoothing", 1.0, r"must be at least 0 and below 1"),
        ("train.decay", "lineal", r"config.train.decay is 'lineal'; did you mean 'linear'"),
        ("dtype", "float16", r"config.dtype is 'float16'; did you mean .*'bfloat16'"),
        ("train.accumulate", 3, r"accumulate is 3; it must divide config.train.batch_size, 8"),
        ("model", "", r"config.model is empty"),
        ("eval.max_examples", -1, r"config.eval.max_examples is -1; it must be 0 or more"),
        ("data.holdout", 0.0, r"config.data.holdout is 0.0; it must be between 0 and 1"),
    ],
)
def test_a_value_out_of_its_range_is_refused(field, value, message):
    config = default_config()
    config.model = "gpt2"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        validate(config)
