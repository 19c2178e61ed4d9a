import pytest

from hut_jax import UserError
from hut_jax.interop.adapter_config import Fields


def test_fields_of_newer_versions_at_their_defaults_are_ignored(caplog):
    empty = {"new_config": None, "use_new": False, "new_list": [], "new_dict": {}, "new_zero": 0}
    Fields(empty).only(())
    assert not caplog.messages
    Fields(empty | {"new_group_size": 32, "new_backend": "auto", "r": 8}).only({"r"})
    (message,) = caplog.messages
    assert message.endswith("ignored, as PEFT ignores fields that it does not know: 'new_group_size', 'new_backend'")


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}])
def test_a_field_that_asks_for_something_new_is_refused(value):
    with pytest.raises(UserError, match=r"'new' is set, .*; if it changes nothing outside training, delete it from ad"):
        Fields({"new": value}).only(())
    Fields({}).only(())
