import pytest

from hut_jax.core.errors import UserError
from hut_jax.transforms import HUT, TRANSFORMS, make_transform, transform_fields


def test_a_transformation_is_made_by_name():
    assert make_transform("hut", rank=4, spread="cyclic") == HUT(rank=4, spread="cyclic")


LORA = {"rank": 8, "alpha": 16.0, "rs": False, "dropout": 0.0}
DEFAULTS = {
    "hut": (0.02, {"rank": 8, "spread": "block", "scale": True, "shift": True}),
    "lora": (0.001, LORA),
    "lora_plus": (0.0005, LORA | {"ratio": 16.0}),
    "dora": (0.003, LORA | {"detach": True}),
    "hira": (0.01, {"rank": 8}),
    "loha": (0.003, {"rank": 8, "alpha": 8.0}),
    "ia3": (0.003, {"side": "output", "feedforward": r"mlp/down$|layer/\d+/output/dense$"}),
    "ssf": (0.005, {"shift": True}),
    "bitfit": (0.001, {}),
    "layernorm": (0.001, {}),
    "full": (0.0001, {}),
}


def test_a_name_alone_stands_for_these_settings_and_this_learning_rate():
    """Commands that leave a setting out, and folders of adapters without it, depend on them."""
    found = {name: (transform.learning_rate, transform_fields(name)) for name, transform in TRANSFORMS.items()}
    assert found == DEFAULTS


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


@pytest.mark.parametrize("name", [name for name, (_, settings) in DEFAULTS.items() if "rank" in settings])
def test_a_rank_below_one_is_refused(name):
    with pytest.raises(UserError, match="rank must be a whole number of at least 1, not 0"):
        make_transform(name, rank=0)
