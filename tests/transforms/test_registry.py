import pytest

from hut_jax.core.errors import UserError
from hut_jax.transforms import HUT, make_transform, transform_fields


def test_a_transformation_is_made_by_name():
    assert make_transform("hut", rank=4, spread="cyclic") == HUT(rank=4, spread="cyclic")
    assert transform_fields("hut") == {"rank": 8, "spread": "block", "scale": True, "shift": True}


def test_unknown_names_and_settings_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown transformation 'hot'; did you mean 'hut'"):
        make_transform("hot")
    with pytest.raises(UserError, match="hut has no setting 'rnk'; did you mean 'rank'"):
        make_transform("hut", rnk=4)
    with pytest.raises(UserError, match="ia3 has no setting 'rank'; valid: 'feedforward', 'side'"):
        make_transform("ia3", rank=4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hut", {"rank": "4"}, "hut: rank must be a int such as 8, not '4'"),
        ("hut", {"scale": 1}, "hut: scale must be a bool such as True, not 1"),
        ("lora", {"alpha": None}, "lora: alpha must be a float such as 16.0, not None"),
        ("lora", {"alpha": float("nan")}, "LoRA: alpha must be a number of at least 0, not nan"),
        ("ia3", {"side": "left"}, "IA3: unknown side 'left'; valid: 'input', 'output'"),
        ("ia3", {"feedforward": "("}, "IA3: feedforward '\\(' is not a regular expression"),
    ],
)
def test_a_value_that_is_none_is_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        make_transform(name, **settings)


def test_whole_numbers_do_for_numbers():
    assert make_transform("lora", alpha=4) == make_transform("lora", alpha=4.0)
