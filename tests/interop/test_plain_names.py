import pytest

from hut_jax import UserError
from hut_jax.interop.plain_names import plain_names

SAVED = [
    "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
    "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight",
    "base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector",
    "base_model.model.classifier.out_proj.weight",
]
PLAIN = [name.removeprefix("base_model.model.") for name in SAVED]


@pytest.mark.parametrize(
    "written",
    [
        lambda key: "_orig_mod." + key,
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: key.replace("h.0.", "h.0._orig_mod."),
        lambda key: key.replace("h.0.", "_fsdp_wrapped_module.h.0._checkpoint_wrapped_module."),
        lambda key: "module." + key,
        lambda key: "_forward_module.net." + key,
        lambda key: "base_model.model." + key,
        lambda key: key.removeprefix("base_model.model."),
    ],
    ids=["compiled", "compiled inside", "compiled layers", "FSDP", "DDP", "Lightning", "PEFT in PEFT", "no prefix"],
)
def test_whatever_wraps_a_model_is_no_part_of_its_names(written):
    assert list(plain_names(dict.fromkeys(map(written, SAVED)))) == PLAIN


@pytest.mark.parametrize("adapter", ["default", "style", "lora_A", "A", "weight"])
def test_the_adapters_name_is_no_part_of_a_tensors_name(adapter):
    of_a_model = [
        f"base_model.model.transformer.h.0.attn.c_attn.lora_A.{adapter}.weight",
        f"base_model.model.transformer.h.0.attn.c_attn.lora_B.{adapter}.weight",
        f"base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector.{adapter}.weight",
        f"base_model.model.classifier.modules_to_save.{adapter}.out_proj.weight",
    ]
    before = {"base_model.model.classifier.original_module.out_proj.weight": 0}
    assert list(plain_names(before | dict.fromkeys(of_a_model))) == PLAIN


@pytest.mark.parametrize(
    "factor",
    ["lora_embedding_A", "lora_E", "hira_B", "hada_w1_a", "ia3_l", "ln_tuning_layers.weight", "lora_B.bias"],
)
def test_every_methods_factors_have_names_without_the_adapters(factor):
    container, dot, leaf = factor.partition(".")
    assert list(plain_names({f"base_model.model.x.{container}.mine{dot}{leaf}": 0})) == [f"x.{factor}"]
    assert list(plain_names({f"base_model.model.x.{factor}": 0})) == [f"x.{factor}"]


def test_several_adapters_in_one_file_and_a_tensor_twice_are_refused():
    two = {"x.lora_A.one.weight": 0, "x.lora_A.two.weight": 0}
    with pytest.raises(UserError, match=r"the adapters 'one', 'two'; save each .*, selected_adapters=\['one'\]\)"):
        plain_names(two)
    with pytest.raises(UserError, match=r"'x.lora_A.weight' and 'module.x.lora_A.weight' are the same tensor"):
        plain_names({"x.lora_A.weight": 0, "module.x.lora_A.weight": 0})
