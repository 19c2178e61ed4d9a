import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from hut_jax import HUT, IA3, SSF, Adapter, BitFit, DoRA, Full, HiRA, LayerNorm, LoHa, LoRA, LoRAPlus, UserError
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.core.trees import flatten, unflatten
from hut_jax.interop import load_peft, save_peft
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig

QV = "attention/(query|value)$"
C_ATTN = "base_model.model.transformer.h.0.attn.c_attn"


def random_factors(adapter, params):
    random = np.random.default_rng(1)
    shapes = {(*site.path, name): shape for site in adapter.sites(params) for name, shape in site.factors.items()}
    return unflatten({path: jnp.asarray(random.standard_normal(shape), jnp.float32) for path, shape in shapes.items()})


def saved(folder):
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def test_query_and_value_become_the_blocks_of_a_diagonal(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(LoRA(rank=2, alpha=3.0), QV)
    factors = random_factors(adapter, params)
    save_peft(tmp_path / "adapter", adapter, factors, model, params, base_name="gpt2")
    config, tensors = saved(tmp_path / "adapter")
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "auto_mapping": None,
        "base_model_name_or_path": "gpt2",
        "inference_mode": True,
        "target_modules": ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"],
        "modules_to_save": None,
        "r": 4,
        "rank_pattern": {},
        "lora_alpha": 6,
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": True,
        "bias": "none",
    }
    own = factors["layer_0"]["attention"]
    a, b = tensors[f"{C_ATTN}.lora_A.weight"], tensors[f"{C_ATTN}.lora_B.weight"]
    np.testing.assert_array_equal(a, np.concatenate([own["query"]["a"], own["value"]["a"]], axis=1).T)
    np.testing.assert_array_equal(b[:4], np.pad(own["query"]["b"].T, ((0, 0), (0, 2))))
    assert not b[4:8].any()
    np.testing.assert_array_equal(b[8:], np.pad(own["value"]["b"].T, ((0, 0), (2, 0))))


def test_equal_matrices_are_written_once(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(LoRA(rank=2), "layer_0/attention/(query|key|value)$")
    factors = random_factors(adapter, params)
    own = factors["layer_0"]["attention"]
    own["key"]["a"] = own["value"]["a"] = own["query"]["a"]
    save_peft(tmp_path, adapter, factors, model, params)
    config, tensors = saved(tmp_path)
    assert config["r"] == 2
    np.testing.assert_array_equal(tensors[f"{C_ATTN}.lora_A.weight"], own["query"]["a"].T)
    jax.tree.map(np.testing.assert_array_equal, load_peft(tmp_path, model, params)[1], factors)


def test_modules_of_other_ranks_are_exceptions_by_their_names(roberta, tmp_path):
    model, params = roberta
    adapter = Adapter(LoRA(rank=2, alpha=3.0, rs=True), QV, ranks={"layer_0/attention/query": 3})
    save_peft(tmp_path, adapter, random_factors(adapter, params), model, params)
    config, _ = saved(tmp_path)
    assert (config["r"], config["lora_alpha"], config["alpha_pattern"]) == (2, 3, {})
    assert config["rank_pattern"] == {"roberta.encoder.layer.0.attention.self.query": 3}
    assert config["fan_in_fan_out"] is False


ROUND = {
    "lora": Adapter(LoRA(rank=2, alpha=5.0), QV),
    "lora of uneven ranks": Adapter(LoRA(rank=2, rs=True), QV + "|mlp", ranks={"value": 3, "mlp": 1}),
    "dora": Adapter(DoRA(rank=2), QV),
    "hira": Adapter(HiRA(rank=2), QV),
    "ia3": Adapter(IA3()),
    "ia3 of inputs": Adapter(IA3(side="input"), "attention/out$|mlp/"),
    "norms": Adapter(LayerNorm()),
    "with modules in full": Adapter(LoRA(rank=2), QV, also_train=["mlp/", "mlp_norm"]),
    "with the embedding": Adapter(LoRA(rank=2), QV, also_train="token_embedding"),
}


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
@pytest.mark.parametrize("name", ROUND)
def test_there_and_back_is_what_was_saved(request, tmp_path, kind, name):
    model, params = request.getfixturevalue(kind)
    adapter = ROUND[name]
    for stack in (lambda tree: tree, stack_layers):
        factors = random_factors(adapter, params)
        scanned = model.clone(scan_layers=stack is stack_layers)
        save_peft(tmp_path, adapter, stack(factors), scanned, stack(params))
        back, loaded = load_peft(tmp_path, scanned, stack(params))
        assert type(back.transform) is type(adapter.transform)
        ours, theirs = flatten(stack(factors)), flatten(loaded)
        assert theirs.keys() == ours.keys()
        for path, leaf in ours.items():
            np.testing.assert_allclose(theirs[path], leaf, rtol=1e-6, atol=2e-6, err_msg=path)


def test_loha_there_and_back(roberta, tmp_path):
    model, params = roberta
    adapter = Adapter(LoHa(rank=2, alpha=3.0), QV, ranks={"value": 3})
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    jax.tree.map(np.testing.assert_array_equal, load_peft(tmp_path, model, params)[1], factors)


def test_hira_has_one_rank_there(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(HiRA(rank=2), "attention/query$|mlp/up$", ranks={"mlp": 3})
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    config, tensors = saved(tmp_path)
    assert (config["r"], config["rank_pattern"]) == (3, {})
    assert {tensor.shape for name, tensor in tensors.items() if name.endswith("hira_A")} == {(3, 4)}
    back, loaded = load_peft(tmp_path, model, params)
    for one, other in zip(
        jax.tree.leaves(back.merge(params, loaded)), jax.tree.leaves(adapter.merge(params, factors)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_head_is_saved_whole_as_peft_wants_it_for_its_task(roberta, tmp_path):
    model, params = roberta
    for also_train, task in [("classifier", "SEQ_CLS"), ("classifier/out", None), (None, None)]:
        adapter = Adapter(LoRA(rank=2), QV, also_train=also_train)
        factors = random_factors(adapter, params)
        save_peft(tmp_path, adapter, factors, model, params)
        config, tensors = saved(tmp_path)
        assert (config["task_type"], config["modules_to_save"]) == (task, ["classifier"])
        assert (config["auto_mapping"] is None) == (task is not None)
        dense = params["classifier"]["dense"]["kernel"]
        dense += factors["classifier"]["dense"]["kernel"]["d"] if also_train == "classifier" else 0
        np.testing.assert_array_equal(tensors["base_model.model.classifier.dense.weight"], dense.T)
        assert len([name for name in tensors if "classifier" in name]) == 4
        assert flatten(load_peft(tmp_path, model, params)[1]).keys() == flatten(factors).keys()


def test_a_head_with_factors_has_no_task_there_and_its_class_is_named(roberta, tmp_path):
    model, params = roberta
    adapter = Adapter(LoRA(rank=2), "classifier/dense$")
    save_peft(tmp_path, adapter, random_factors(adapter, params), model, params)
    config, _ = saved(tmp_path)
    assert (config["task_type"], config["modules_to_save"]) == (None, None)
    assert config["auto_mapping"]["base_model_class"] == "RobertaForSequenceClassification"


@pytest.mark.parametrize("ranks", [{}, {"value": 3}])
def test_a_scaling_of_zero_is_written_and_keeps_its_factors(gpt2, tmp_path, ranks):
    model, params = gpt2
    adapter = Adapter(LoRA(rank=2, alpha=0.0), QV, ranks=ranks)
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    assert saved(tmp_path)[0]["lora_alpha"] == 0
    back, loaded = load_peft(tmp_path, model, params)
    assert back.transform.alpha == 0
    jax.tree.map(np.testing.assert_array_equal, loaded, factors)


def test_a_tied_embedding_is_saved_under_both_names(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(LoRA(rank=2), QV, also_train="token_embedding")
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    config, tensors = saved(tmp_path)
    assert config["modules_to_save"] == ["lm_head", "transformer.wte"]
    table = params["token_embedding"]["embedding"] + factors["token_embedding"]["embedding"]["d"]
    for name in ("lm_head", "transformer.wte"):
        np.testing.assert_array_equal(tensors[f"base_model.model.{name}.weight"], table)


def test_half_a_norm_is_written_whole(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(LayerNorm(), "final_norm/scale")
    save_peft(tmp_path, adapter, random_factors(adapter, params), model, params)
    _, tensors = saved(tmp_path)
    bias = tensors["base_model.model.transformer.ln_f.ln_tuning_layers.bias"]
    np.testing.assert_array_equal(bias, params["final_norm"]["bias"])
    assert len(tensors) == 2


@pytest.mark.parametrize("also_train", [["^mlm/bias$"], ["^mlm/bias$", "^token_embedding$"]])
def test_the_bias_of_a_masked_lm_head_leaves_the_heads_other_layers_alone(with_params, tmp_path, also_train):
    sizes = {"vocab_size": 7, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig("roberta", **sizes, intermediate_size=6, max_position_embeddings=8, head="mlm")
    model, params = with_params(Roberta(config))
    adapter = Adapter(LoRA(rank=2), "^mlm/dense$", also_train=also_train)
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    config, tensors = saved(tmp_path)
    assert config["target_modules"] == ["lm_head.dense"]
    assert config["modules_to_save"] == ["lm_head.decoder", "roberta.embeddings.word_embeddings"][: len(also_train)]
    np.testing.assert_array_equal(
        tensors["base_model.model.lm_head.decoder.bias"], params["mlm"]["bias"] + factors["mlm"]["bias"]["d"]
    )
    back, loaded = load_peft(tmp_path, model, params)
    assert back.untied == ()
    merged = (adapter.merge(params, factors), back.merge(params, loaded))
    for one, other in zip(*map(jax.tree.leaves, merged), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", [HUT(rank=2), SSF(), BitFit()], ids=lambda transform: transform.name)
def test_what_peft_does_not_have_is_exported_merged(gpt2, tmp_path, transform):
    model, params = gpt2
    adapter = Adapter(transform)
    with pytest.raises(
        UserError, match=f"PEFT has no {transform.name}; export the merged model instead, python -m hut"
    ):
        save_peft(tmp_path, adapter, random_factors(adapter, params), model, params)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Adapter(LoHa(rank=2), QV), "c_attn is a Conv1D, for which PEFT has no LoHa; export the merged"),
        (Adapter(IA3(side="input"), QV), r"c_attn is one module in PEFT, and its IA3 must scale the inputs of layer_0"),
        (Adapter(IA3(feedforward="query"), QV), r"c_attn is one module in PEFT, and its IA3 must scale the inputs"),
        (Adapter(LoRA(rank=2), QV, also_train="key"), r"c_attn has factors, but PEFT saves it whole with modules_to"),
    ],
)
def test_what_one_module_there_cannot_do_is_refused(gpt2, tmp_path, adapter, message):
    model, params = gpt2
    with pytest.raises(UserError, match=message) as caught:
        save_peft(tmp_path / "adapter", adapter, random_factors(adapter, params), model, params)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "adapter").exists()


def test_inputs_that_all_scale_alike_are_one_module(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(IA3(side="input"), "layer_0/attention/(query|key|value)$")
    factors = random_factors(adapter, params)
    own = factors["layer_0"]["attention"]
    own["key"] = own["value"] = own["query"]
    save_peft(tmp_path, adapter, factors, model, params)
    config, tensors = saved(tmp_path)
    assert config["feedforward_modules"] == config["target_modules"] == ["transformer.h.0.attn.c_attn"]
    np.testing.assert_array_equal(tensors[f"{C_ATTN}.ia3_l"], (1 + own["query"]["l"])[None])


def test_lora_plus_is_lora_there(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(LoRAPlus(rank=2), QV)
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    back, loaded = load_peft(tmp_path, model, params)
    assert back.transform == LoRA(rank=2)
    jax.tree.map(np.testing.assert_array_equal, loaded, factors)


def test_a_model_of_no_known_family_is_refused(gpt2, tmp_path):
    _, params = gpt2
    adapter = Adapter(LoRA(rank=2), QV)
    with pytest.raises(UserError, match="Dense is none of the models whose PEFT adapters are known; valid: 'bert'"):
        save_peft(tmp_path, adapter, random_factors(adapter, params), nn.Dense(4), params)


def test_factors_of_another_adapter_are_refused(gpt2, tmp_path):
    model, params = gpt2
    factors = random_factors(Adapter(LoRA(rank=3), QV), params)
    with pytest.raises(UserError, match=r"has shape \[4, 3\]; its kernel wants \[4, 2\]"):
        save_peft(tmp_path, Adapter(LoRA(rank=2), QV), factors, model, params)


def test_tokens_alone_are_rows_of_the_table_and_of_the_head_that_is_tied_to_it(gpt2, tmp_path):
    model, params = gpt2
    adapter = Adapter(Full(), "^token_embedding$")
    factors = jax.tree.map(np.zeros_like, random_factors(adapter, params))
    factors["token_embedding"]["embedding"]["d"][[1, 6]] = 0.5
    save_peft(tmp_path / "adapter", adapter, factors, model, params)
    config, tensors = saved(tmp_path / "adapter")
    assert config["peft_type"] == "TRAINABLE_TOKENS"
    assert config["token_indices"] == [1, 6]
    assert "modules_to_save" not in config  # which PEFT does not know here
    rows = np.asarray(params["token_embedding"]["embedding"])[[1, 6]] + 0.5
    names = ("transformer.wte", "lm_head")
    assert tensors.keys() == {f"base_model.model.{name}.trainable_tokens_delta" for name in names}
    for tensor in tensors.values():
        np.testing.assert_allclose(tensor, rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("adapter", "modules"),
    [
        (Adapter(Full()), None),
        (Adapter(Full(), "^layer_0/attention/query/kernel$"), {"transformer.h.0.attn.c_attn"}),
        (Adapter(Full(), "^layer_1/mlp/up/"), {"transformer.h.1.mlp.c_fc"}),
        (Adapter(Full(), ["^token_embedding$", "^final_norm$"]), {"transformer.wte", "lm_head", "transformer.ln_f"}),
        (Adapter(Full(), "^token_embedding$", also_train="^final_norm$"), {"transformer.wte", "lm_head"}),
        (Adapter(Full(), ["token_", "position_"]), {"transformer.wte", "lm_head", "transformer.wpe"}),  # 7 and 5 rows
        (Adapter(Full(), "layer_1/mlp/up/kernel", also_train="layer_1/mlp/up/bias"), {"transformer.h.1.mlp.c_fc"}),
    ],
)
def test_modules_that_train_in_full_are_those_of_ln_tuning(gpt2, tmp_path, adapter, modules):
    model, params = gpt2
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    config, tensors = saved(tmp_path)
    assert config["peft_type"] == "LN_TUNING"
    if modules is not None:
        assert {*config["target_modules"]} == modules
    assert config["modules_to_save"] == (["transformer.ln_f"] if "final_norm" in str(adapter.also_train) else None)
    weight = tensors.get(f"{C_ATTN}.ln_tuning_layers.weight")
    if modules == {"transformer.h.0.attn.c_attn"}:
        base = [params["layer_0"]["attention"][name]["kernel"] for name in ("query", "key", "value")]
        base[0] += factors["layer_0"]["attention"]["query"]["kernel"]["d"]
        np.testing.assert_array_equal(weight, np.concatenate(base, axis=1))
    back, loaded = load_peft(tmp_path, model, params)
    assert back.transform == Full()
    merged = (adapter.merge(params, factors), back.merge(params, loaded))
    for one, other in zip(*map(jax.tree.leaves, merged), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["prelu", "xielu"])
@pytest.mark.parametrize(
    "adapter",
    [Adapter(Full(), "mlp/activation"), Adapter(Full()), Adapter(LoRA(rank=2), QV, also_train="mlp/activation")],
    ids=["alone", "with all others", "beside LoRA"],
)
def test_an_activation_that_learns_goes_there_and_comes_back(with_params, tmp_path, adapter, name):
    config = GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=2, n_head=2, activation_function=name)
    model, params = with_params(GPT2(config))
    factors = random_factors(adapter, params)
    save_peft(tmp_path, adapter, factors, model, params)
    again, own = load_peft(tmp_path, model, params)
    merged, wanted = again.merge(params, own), adapter.merge(params, factors)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), merged, wanted)
    moved = (merged["layer_0"]["mlp"]["activation"], params["layer_0"]["mlp"]["activation"])
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, moved), strict=True))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("org/base@v1", ("org/base", "v1")),
        ("/models/llama@v2/base", ("/models/llama@v2/base", None)),
        (None, (None, None)),
    ],
)
def test_the_revision_of_a_hub_name_stands_apart(gpt2, tmp_path, name, written):
    model, params = gpt2
    adapter = Adapter(LoRA(rank=2), QV)
    save_peft(tmp_path, adapter, random_factors(adapter, params), model, params, base_name=name)
    config, _ = saved(tmp_path)
    assert (config["base_model_name_or_path"], config.get("revision")) == written
