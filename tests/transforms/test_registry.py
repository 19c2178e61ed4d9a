import pytest

from hut_jax.errors import UserError
from hut_jax.transforms import HUT, make_transform, transform_fields


def test_a_transformation_is_made_by_name():
    assert make_transform("hut", rank=4, spread="cyclic") == HUT(rank=4, spread="cyclic")
    assert transform_fields("hut") == {"rank": 8, "spread": "block", "scale": True, "shift": True}


def test_unknown_names_and_settings_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown transformation 'hot'; did you mean 'hut'"):
        make_transform("hot")
    with pytest.raises(UserError, match="hut has no setting 'rnk'; did you mean 'rank'"):
        make_transform("hut", rnk=4)
