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


def test_an_initialisation_that_changes_the_base_has_its_way_out():
    for name in (None, True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica"):
        Fields({"init_lora_weights": name}).check_initialisation()
    for name, advice in {
        "pissa": r"save the changed base in PEFT, PeftModel.from_pretrained\(base, FOLDER\).unload",
        "olora": "save the changed base in PEFT",
        "OLoRA": "save the changed base in PEFT",
        "pissa_niter_4": "save the changed base where you train, model.unload",
        "loftq": "save",
    }.items():
        with pytest.raises(UserError, match=f"'{name.lower()}': this initialisation changes the base; {advice}"):
            Fields({"init_lora_weights": name}).check_initialisation()


@pytest.mark.parametrize(
    ("field", "advice"),
    [
        ("kasa_config", "merge it in PEFT"),
        ("alora_invocation_tokens", "its factors act only on"),
        ("of_mine", "if it "),
    ],
)
def test_a_field_is_to_be_merged_only_where_peft_can(field, advice):
    with pytest.raises(UserError, match=f"'{field}' is set, which this library does not support; {advice}"):
        Fields({field: [1]}).only(())


@pytest.mark.parametrize("targets", [["c_attn", "lm_head"], ["wte"], r".*\.(c_attn|wte)"])
def test_what_peft_would_merge_into_both_ends_of_a_tie_has_no_way_out(targets):
    tied = {"lm_head.weight": "transformer.wte.weight"}
    with pytest.raises(
        UserError, match=r"cannot merge it on (lm_head|transformer.wte), which is tied: there is no way$"
    ):
        Fields({"kasa_config": {"beta": 1}, "target_modules": targets}).check_mergeable(tied)
    Fields({"kasa_config": {"beta": 1}, "target_modules": targets}).check_mergeable({})
    Fields({"kasa_config": {"beta": 1}, "target_modules": ["c_attn"]}).check_mergeable(tied)
    Fields({"target_modules": targets}).check_mergeable(tied)


def test_patterns_for_a_parameter_match_its_name_not_its_modules():
    patterns = {"rank_pattern": {"c_attn": 3, "c_attn.weight": 4}, "alpha_pattern": {r"h\.0\..*c_attn.weight": 5}}
    of_parameter, of_module = Fields(patterns | {"target_parameters": ["c_attn.weight"]}), Fields(patterns)
    module = "transformer.h.0.attn.c_attn"
    assert (of_parameter.rank(module, 8), of_parameter.alpha(module, "lora_alpha", 8)) == (4, 5)
    assert (of_module.rank(module, 8), of_module.alpha(module, "lora_alpha", 8)) == (3, 8)
