import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from hut_jax import IA3, DoRA, HiRA, LayerNorm, LoHa, LoRA, UserError
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.interop import load_peft
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config

C_ATTN = "transformer.h.0.attn.c_attn"
QUERY = "roberta.encoder.layer.0.attention.self.query"
PARTS = ("query", "key", "value")
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def lora(module=C_ATTN, d=4, k=12, r=2):
    return {f"{module}.lora_A.weight": normal(r, d), f"{module}.lora_B.weight": normal(k, r)}


LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}


def fused(params, layer="layer_0", leaf="kernel"):
    return np.concatenate([params[layer]["attention"][part][leaf] for part in PARTS], axis=-1)


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rs", [False, True])
def test_a_fused_module_of_lora_is_query_key_and_value(gpt2, write, rs):
    model, params = gpt2
    tensors = lora()
    adapter, factors = load_peft(write(LORA | {"use_rslora": rs, "lora_dropout": 0.1}, tensors), model, params)
    assert adapter.transform == LoRA(rank=2, alpha=6.0, rs=rs, dropout=0.1)
    assert adapter.targets == tuple(f"^layer_0/attention/{part}$" for part in PARTS)
    merged = adapter.merge(params, factors)
    a, b = tensors.values()
    assert_close(fused(merged), fused(params) + 6 / (math.sqrt(2) if rs else 2) * (b @ a).T)
    assert merged["layer_1"] == params["layer_1"]


def test_ranks_and_scalings_by_pattern(roberta, write):
    model, params = roberta
    other = QUERY.replace("query", "value")
    config = LORA | {"rank_pattern": {"self.value": 3}, "alpha_pattern": {"layer.0.attention.self.value": 5}}
    tensors = lora(QUERY, k=4) | lora(other, k=4, r=3) | lora(QUERY.replace("0", "1"), k=4)
    adapter, factors = load_peft(write(config, tensors), model, params)
    assert adapter.transform == LoRA(rank=2, alpha=6.0)
    assert adapter.ranks == (("^layer_0/attention/value$", 3),)
    merged = adapter.merge(params, factors)["layer_0"]["attention"]
    for part, module, scale in [("query", QUERY, 6 / 2), ("value", other, 5 / 3)]:
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        assert_close(merged[part]["kernel"], params["layer_0"]["attention"][part]["kernel"] + scale * (b @ a).T)


def test_the_blocks_of_a_diagonal_are_told_apart(gpt2, write):
    model, params = gpt2
    tensors = lora(r=3)
    b = tensors[f"{C_ATTN}.lora_B.weight"]
    b[:4, 1:] = b[4:8] = b[8:, :1] = 0  # query has the first rank, value the two others, key none
    adapter, factors = load_peft(write(LORA | {"r": 3}, tensors), model, params)
    assert adapter.targets == ("^layer_0/attention/query$", "^layer_0/attention/value$")
    shapes = {part: own["a"].shape for part, own in factors["layer_0"]["attention"].items()}
    assert shapes == {"query": (4, 1), "value": (4, 2)}
    a = tensors[f"{C_ATTN}.lora_A.weight"]
    assert_close(fused(adapter.merge(params, factors)), fused(params) + 2 * (b @ a).T)


def test_an_untrained_fused_module_keeps_all_its_targets(gpt2, write):
    tensors = lora()
    tensors[f"{C_ATTN}.lora_B.weight"][:] = 0
    adapter, _ = load_peft(write(LORA, tensors), *gpt2)
    assert len(adapter.targets) == 3


def test_dora(gpt2, write):
    model, params = gpt2
    tensors = lora() | {f"{C_ATTN}.lora_magnitude_vector": np.abs(normal(12))}
    adapter, factors = load_peft(write(LORA | {"use_dora": True}, tensors), model, params)
    assert adapter.transform == DoRA(rank=2, alpha=6.0)
    a, b, m = tensors.values()
    v = fused(params) + 3 * (b @ a).T
    assert_close(fused(adapter.merge(params, factors)), m * v / np.linalg.norm(v, axis=0))


def test_a_part_of_a_fused_module_that_only_changed_its_magnitudes_keeps_its_rank(gpt2, write):
    model, params = gpt2
    tensors = lora()
    tensors[f"{C_ATTN}.lora_B.weight"][:8] = 0
    m = np.linalg.norm(fused(params).astype(np.float64), axis=0).astype(np.float32)
    m[:4] *= 2
    config = LORA | {"use_dora": True}
    adapter, factors = load_peft(write(config, tensors | {f"{C_ATTN}.lora_magnitude_vector": m}), model, params)
    assert adapter.targets == ("^layer_0/attention/query$", "^layer_0/attention/value$")
    query = adapter.merge(params, factors)["layer_0"]["attention"]["query"]["kernel"]
    assert_close(query, 2 * params["layer_0"]["attention"]["query"]["kernel"])


def test_dora_on_zero_columns_is_refused(gpt2, write):
    model, params = gpt2
    zero = jax.tree.map(np.array, params)
    zero["layer_0"]["attention"]["key"]["kernel"][:, 1] = 0
    tensors = lora() | {f"{C_ATTN}.lora_magnitude_vector": np.abs(normal(12))}
    with pytest.raises(UserError, match=r"c_attn has outputs whose weights are all zero"):
        load_peft(write(LORA | {"use_dora": True}, tensors), model, zero)


def test_hira(gpt2, write):
    model, params = gpt2
    tensors = {f"{C_ATTN}.hira_A": normal(2, 4), f"{C_ATTN}.hira_B": normal(12, 2)}
    adapter, factors = load_peft(write({"peft_type": "HIRA", "r": 2}, tensors), model, params)
    assert adapter.transform == HiRA(rank=2)
    a, b = tensors.values()
    assert_close(fused(adapter.merge(params, factors)), fused(params) * (1 + (b @ a).T))


def test_loha(roberta, write):
    model, params = roberta
    tensors = {
        f"{QUERY}.hada_w1_a": normal(4, 2),
        f"{QUERY}.hada_w1_b": normal(2, 4),
        f"{QUERY}.hada_w2_a": normal(4, 2),
        f"{QUERY}.hada_w2_b": normal(2, 4),
    }
    adapter, factors = load_peft(write({"peft_type": "LOHA", "r": 2, "alpha": 3}, tensors), model, params)
    assert adapter.transform == LoHa(rank=2, alpha=3.0)
    w1_a, w1_b, w2_a, w2_b = tensors.values()
    merged, base = (
        tree["layer_0"]["attention"]["query"]["kernel"] for tree in (adapter.merge(params, factors), params)
    )
    assert_close(merged, base + 1.5 * ((w1_a @ w1_b) * (w2_a @ w2_b)).T)


def test_ia3(gpt2, write):
    model, params = gpt2
    outputs, inputs = normal(12, 1), normal(1, 16)
    config = {"peft_type": "IA3", "feedforward_modules": ["mlp.c_proj"]}
    tensors = {f"{C_ATTN}.ia3_l": outputs, "transformer.h.0.mlp.c_proj.ia3_l": inputs}
    adapter, factors = load_peft(write(config, tensors), model, params)
    assert adapter.transform == IA3()
    merged = adapter.merge(params, factors)
    assert_close(fused(merged), fused(params) * outputs[:, 0])
    assert_close(fused(merged, leaf="bias"), fused(params, leaf="bias") * outputs[:, 0])
    assert_close(merged["layer_0"]["mlp"]["down"]["kernel"], params["layer_0"]["mlp"]["down"]["kernel"] * inputs.T)


def test_ia3_scales_the_inputs_of_any_layer(gpt2, write):
    model, params = gpt2
    inputs = normal(1, 4)
    config = {"peft_type": "IA3", "feedforward_modules": ["c_attn"]}
    adapter, factors = load_peft(write(config, {f"{C_ATTN}.ia3_l": inputs}), model, params)
    assert_close(fused(adapter.merge(params, factors)), fused(params) * inputs.T)


def test_ia3_on_a_layer_of_one_input_and_one_output_is_refused(with_params, write):
    model, params = with_params(GPT2(GPT2Config(vocab_size=3, n_positions=2, n_embd=1, n_layer=1, n_head=1)))
    tensors = {"transformer.h.0.attn.c_proj.ia3_l": normal(1, 1)}
    with pytest.raises(UserError, match=r"ia3_l is \[1, 1\]; .* for its inputs, and the two must differ"):
        load_peft(write({"peft_type": "IA3"}, tensors), model, params)


def test_a_scaling_of_zero_is_read(gpt2, write):
    model, params = gpt2
    adapter, factors = load_peft(write(LORA | {"lora_alpha": 0}, lora()), model, params)
    np.testing.assert_array_equal(fused(adapter.merge(params, factors)), fused(params))
    second = C_ATTN.replace("0", "1")
    config, tensors = LORA | {"lora_alpha": 0, "alpha_pattern": {"h.1.attn.c_attn": 4}}, lora() | lora(second)
    adapter, factors = load_peft(write(config, tensors), model, params)
    merged = adapter.merge(params, factors)
    np.testing.assert_array_equal(fused(merged), fused(params))
    a, b = tensors[f"{second}.lora_A.weight"], tensors[f"{second}.lora_B.weight"]
    assert_close(fused(merged, "layer_1"), fused(params, "layer_1") + 2 * (b @ a).T)


def test_norms(gpt2, write):
    model, params = gpt2
    scale, bias, final = normal(4), normal(4), normal(4)
    tensors = {
        "transformer.h.1.ln_2.ln_tuning_layers.weight": scale,
        "transformer.h.1.ln_2.ln_tuning_layers.bias": bias,
        "transformer.ln_f.ln_tuning_layers.weight": final,
    }
    adapter, factors = load_peft(write({"peft_type": "LN_TUNING"}, tensors), model, params)
    assert adapter.transform == LayerNorm()
    merged = adapter.merge(params, factors)
    assert_close(merged["layer_1"]["mlp_norm"]["scale"], scale)
    assert_close(merged["layer_1"]["mlp_norm"]["bias"], bias)
    assert_close(merged["final_norm"]["scale"], final)
    assert merged["final_norm"]["bias"] is params["final_norm"]["bias"]


def head():
    return {
        "classifier.dense.weight": normal(4, 4),
        "classifier.dense.bias": normal(4),
        "classifier.out_proj.weight": normal(3, 4),
        "classifier.out_proj.bias": normal(3),
    }


def test_saved_modules_train_in_full(roberta, write):
    model, params = roberta
    config = LORA | {"modules_to_save": ["classifier", "score"], "task_type": "SEQ_CLS"}
    tensors = head()
    adapter, factors = load_peft(write(config, lora(QUERY, k=4) | tensors), model, params)
    assert adapter.also_train == ("^classifier/dense$", "^classifier/out$")
    merged = adapter.merge(params, factors)["classifier"]
    for theirs, ours in (("dense", "dense"), ("out_proj", "out")):
        assert_close(merged[ours]["kernel"], tensors[f"classifier.{theirs}.weight"].T)
        assert_close(merged[ours]["bias"], tensors[f"classifier.{theirs}.bias"])


def test_a_saved_embedding_that_is_the_bases_changes_nothing(gpt2, write):
    model, params = gpt2
    table = params["token_embedding"]["embedding"].astype(ml_dtypes.bfloat16)
    same = lora() | {"transformer.wte.weight": table}
    assert load_peft(write(LORA, same), model, params)[0].also_train == ()
    other = load_peft(write(LORA, lora() | {"transformer.wte.weight": table + 1}), model, params)[0]
    assert other.also_train == ("^token_embedding$",)


def test_a_tie_holds_where_both_are_saved(gpt2, write):
    model, params = gpt2
    table, config = normal(7, 4), LORA | {"modules_to_save": ["wte", "lm_head"]}
    tied = lora() | {"transformer.wte.weight": table, "lm_head.weight": table}
    adapter, factors = load_peft(write(config, tied), model, params)
    assert (adapter.also_train, adapter.untied) == (("^token_embedding$",), ())
    assert_close(adapter.merge(params, factors)["token_embedding"]["embedding"], table)
    with pytest.raises(UserError, match=r"modules_to_save names 'lm_head.weight', but the file does not have it"):
        load_peft(write(config, lora() | {"transformer.wte.weight": table}), model, params)


def test_the_names_of_a_bare_body_are_known(gpt2, write):
    bare = {name.removeprefix("transformer."): tensor for name, tensor in lora().items()}
    assert len(load_peft(write(LORA, bare), *gpt2)[0].targets) == 3
    with pytest.raises(UserError, match="adapts layer_0/attention/query twice"):
        load_peft(write(LORA, bare | lora()), *gpt2)


def test_half_precision_is_read(gpt2, write):
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in lora().items()}
    factors = load_peft(write(LORA, half), *gpt2)[1]
    query = factors["layer_0"]["attention"]["query"]["a"]
    assert query.dtype == jnp.float32
    np.testing.assert_array_equal(query, half[f"{C_ATTN}.lora_A.weight"].T.astype(np.float32))


def test_stacked_layers_must_be_adapted_alike(gpt2, write):
    model, params = gpt2
    stacked = stack_layers(params)
    both = lora() | lora(C_ATTN.replace("0", "1"))
    adapter, factors = load_peft(write(LORA, both), model.clone(scan_layers=True), stacked)
    assert adapter.targets == tuple(f"^layers/attention/{part}$" for part in PARTS)
    apart = load_peft(write(LORA, both), model, params)[1]
    jax.tree.map(np.testing.assert_array_equal, factors, stack_layers(apart))
    for config, tensors in [
        (LORA, lora()),
        (LORA | {"rank_pattern": {"h.1.attn.c_attn": 3}}, lora() | lora(C_ATTN.replace("0", "1"), r=3)),
    ]:
        assert load_peft(write(config, tensors), model, params)  # the way out
        with pytest.raises(UserError, match="layers/attention/query: not all layers are adapted alike"):
            load_peft(write(config, tensors), model.clone(scan_layers=True), stacked)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transform": {}}, "is not PEFT's: it has no 'peft_type'; read an adapter of this library with load_adapter"),
        (
            {"peft_type": "VERA"},
            "peft_type 'VERA' is not supported; valid: 'ADALORA', 'HIRA', 'IA3', 'LN_TUNING', ",
        ),
        ({"peft_type": ["LORA"]}, r"'peft_type' must be a string, not \['LORA'\]"),
        (LORA | {"r": 3}, r"lora_A.weight is \[2, 4\]; rank 3 on this layer needs \[3, 4\]"),
        (LORA | {"r": "2"}, "'r' must be a whole number of at least 1, not '2'"),
        (LORA | {"lora_alpha": math.nan}, "'lora_alpha' must be a number, not nan"),
        (LORA | {"lora_alpha": 10**400}, "'lora_alpha' must be a number, not 1000"),
        (LORA | {"lora_dropout": 2}, "dropout must be a number of at least 0 and below 1, not 2.0"),
        (LORA | {"use_dora": 1}, "'use_dora' must be true or false, not 1"),
        (LORA | {"bias": "some"}, "'bias' is 'some': valid: 'none', 'all', 'lora_only'"),
        (LORA | {"init_lora_weights": "olora"}, "'init_lora_weights' is 'olora': this initialisation changes the base"),
        (LORA | {"layer_replication": [[0, 2]]}, "'layer_replication' is set, which this library does not support"),
        (LORA | {"of_the_future": True}, "'of_the_future' is set, which this library does not support; if it ch"),
        (
            LORA | {"rank_pattern": {"c_attn": 0}},
            "'rank_pattern': 'c_attn' must be a whole number of at least 1, not 0",
        ),
        (LORA | {"rank_pattern": {"(": 2}}, r"'rank_pattern': '\(' is not a regular expression"),
        (LORA | {"alpha_pattern": [1]}, r"'alpha_pattern' must be an object, not \[1\]"),
        (LORA | {"modules_to_save": "lm_head"}, "'modules_to_save' must be a list of strings, not 'lm_head'"),
        (
            LORA | {"modules_to_save": ["ln_f"]},
            "modules_to_save names 'transformer.ln_f.weight', but the file does not",
        ),
        (LORA | {"use_dora": True}, "has no transformer.h.0.attn.c_attn.lora_magnitude_vector, but other tensors of"),
        ({"peft_type": "IA3"}, r"has no tensor of IA3, such as ...ia3_l"),
    ],
)
def test_what_the_description_asks_and_we_cannot(gpt2, write, config, message):
    with pytest.raises(UserError, match=message) as caught:
        load_peft(write(config, lora()), *gpt2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        (
            LORA,
            lora("transformer.h.2.attn.c_attn"),
            "transformer.h.2.attn.c_attn is not a dense layer of this model; did",
        ),
        (LORA, lora(k=8), r"lora_B.weight is \[8, 2\]; rank 2 on this layer needs \[12, 2\]"),
        (LORA, lora() | {f"{C_ATTN}.lora_A.weight": normal(2)}, r"lora_A.weight is \[2\]; rank 2"),
        (LORA, {f"{C_ATTN}.lora_A.weight": normal(2, 4)}, "has no transformer.h.0.attn.c_attn.lora_B.weight, but"),
        (LORA, lora() | {f"{C_ATTN}.lora_B.bias": normal(12)}, "lora_B.bias' is not a tensor of this model or adapter"),
        (LORA, lora() | {"lm_head.weight": normal(8, 4)}, r"'lm_head.weight' is \[8, 4\], and the model's is \[7, 4\]"),
        (LORA, {name: tensor * np.inf for name, tensor in lora().items()}, "query/a has values that are not finite"),
        (LORA, {name: tensor.astype(int) for name, tensor in lora().items()}, "is int64, and factors are floats"),
        ({"peft_type": "IA3"}, {f"{C_ATTN}.ia3_l": normal(12)}, r"ia3_l is \[12\]; this layer needs \[12, 1\] for its"),
        (
            {"peft_type": "LN_TUNING"},
            {"transformer.ln_f.ln_tuning_layers.weight": normal(3)},
            r"'transformer.ln_f.weight' is \[3\], and the model's is \[4\]",
        ),
        (
            {"peft_type": "LN_TUNING"},
            {"transformer.h.0.mlp.act.ln_tuning_layers.weight": normal(4)},
            "'transformer.h.0.mlp.act.weight' is not a tensor of this model or adapter",
        ),
        (
            {"peft_type": "LOHA", "r": 2},
            {
                f"{C_ATTN}.hada_w{i}_{side}": normal(*shape)
                for i in (1, 2)
                for side, shape in zip("ab", [(12, 2), (2, 4)], strict=True)
            },
            "c_attn is a Conv1D, for which PEFT has no LoHa",
        ),
    ],
)
def test_tensors_of_another_model_or_method(gpt2, write, config, tensors, message):
    with pytest.raises(UserError, match=message) as caught:
        load_peft(write(config, tensors), *gpt2)
    assert "\n" not in str(caught.value)


def test_damage_and_foreign_names_are_one_line(gpt2, write):
    folder = write(LORA, lora())
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        load_peft(folder, *gpt2)
    save_file({"lora_A": normal(2, 4)}, weights)
    with pytest.raises(UserError, match=r"has no tensor of LORA, such as ...lora_A.weight"):
        load_peft(folder, *gpt2)


def test_params_of_another_model_are_refused(gpt2, roberta, write):
    with pytest.raises(UserError, match="params are not those of the model: they have no"):
        load_peft(write(LORA, lora()), gpt2[0], roberta[1])


ODD = [None, True, 5, 1e30, 10**30, "x", "(", [], [1], [[1]], {}, {"a": {}}, ["a", "b"], -1, {"c_attn": 10**30}]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_hostile_description_is_one_line_or_harmless(gpt2, write, value):
    whole = LORA | dict.fromkeys(("use_rslora", "lora_dropout", "bias", "init_lora_weights", "modules_to_save"))
    whole |= dict.fromkeys(("rank_pattern", "alpha_pattern", "target_modules", "task_type", "unknown"))
    tensors = lora()
    messages = [refusal(write(whole | {key: value}, tensors), gpt2) for key in whole]
    assert any(messages)
    assert not any("\n" in message for message in messages)


def refusal(folder, base):
    """What `load_peft` says against the folder; nothing where it reads it."""
    try:
        load_peft(folder, *base)
    except UserError as error:
        return str(error)
    return ""
