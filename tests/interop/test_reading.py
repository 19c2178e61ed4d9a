"""Tied embeddings and heads, embeddings, biases, single tokens and variants of LoRA, in files made by hand."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from hut_jax import DoRA, Full, HiRA, LoRA, UserError
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.interop import load_peft, save_peft
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig

C_ATTN, WTE, HEAD = "transformer.h.0.attn.c_attn", "transformer.wte", "lm_head"
UNTIED = (("lm_head/kernel", "token_embedding/embedding"),)
RANDOM = np.random.default_rng(0)
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def lora(module=C_ATTN, d=4, k=12, r=2):
    return {f"{module}.lora_A.weight": normal(r, d), f"{module}.lora_B.weight": normal(k, r)}


def of_table(method="lora"):
    return {f"{WTE}.{method}_embedding_A": normal(2, 7), f"{WTE}.{method}_embedding_B": normal(4, 2)}


@pytest.fixture
def load(tmp_path, gpt2):
    """A function from a config and tensors to the adapter, the merged parameters and the factors."""

    def load(config, tensors, base=gpt2):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        tensors = {f"base_model.model.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        adapter, factors = load_peft(tmp_path, *base)
        return adapter, adapter.merge(base[1], factors), factors

    return load


@pytest.fixture
def read(load, tmp_path, gpt2):
    """The same, without the factors, which are written and read again."""

    def read(config, tensors, base=gpt2):
        adapter, merged, factors = load(config, tensors, base)
        save_peft(tmp_path, adapter, factors, *base)
        back, same = load_peft(tmp_path, *base)
        jax.tree.map(assert_close, back.merge(base[1], same), merged)
        return adapter, merged

    return read


def assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture
def table(gpt2):
    return np.asarray(gpt2[1]["token_embedding"]["embedding"])


def test_factors_on_a_tied_head_leave_the_embedding_as_it_was(read, table):
    tensors = lora(HEAD, k=7)
    a, b = tensors.values()
    adapter, merged = read(LORA, lora() | tensors)
    assert adapter.untied == UNTIED
    assert_close(merged["lm_head"]["kernel"], (table + 3 * b @ a).T)
    np.testing.assert_array_equal(merged["token_embedding"]["embedding"], table)


@pytest.mark.parametrize("kind", ["lora", "dora", "hira"])
def test_factors_on_a_tied_embedding_leave_the_head_as_it_was(read, table, kind):
    tensors = of_table("hira" if kind == "hira" else "lora")
    a, b = tensors.values()
    config, delta = LORA, table + 3 * (b @ a).T
    if kind == "hira":
        config, delta = {"peft_type": "HIRA", "r": 2}, table * (1 + (b @ a).T)
    if kind == "dora":
        m = np.abs(normal(4))
        config, tensors = LORA | {"use_dora": True}, tensors | {f"{WTE}.lora_magnitude_vector": m}
        delta = m * delta / np.linalg.norm(delta, axis=0)
    adapter, merged = read(config, tensors)
    assert adapter.transform == {"lora": LoRA(2, 6.0), "dora": DoRA(2, 6.0), "hira": HiRA(2)}[kind]
    assert adapter.untied == UNTIED
    assert_close(merged["token_embedding"]["embedding"], delta)
    np.testing.assert_array_equal(merged["lm_head"]["kernel"], table.T)


def test_factors_that_peft_ties_keep_the_tie(read, table):
    tensors = of_table()
    a, b = tensors.values()
    mirror = {f"{HEAD}.lora_A.weight": b.T, f"{HEAD}.lora_B.weight": a.T}
    adapter, merged = read(LORA | {"ensure_weight_tying": True}, tensors | mirror)
    assert adapter.untied == ()
    assert_close(merged["token_embedding"]["embedding"], table + 3 * (b @ a).T)
    assert "lm_head" not in merged
    scaled = LORA | {"alpha_pattern": {"lm_head": 1}}
    assert read(scaled, tensors | mirror)[0].untied == UNTIED


def test_factors_of_both_ends_that_differ_take_them_apart(read, table):
    tensors, others = of_table(), lora(HEAD, k=7)
    adapter, merged = read(LORA | {"ensure_weight_tying": True}, tensors | others)
    assert adapter.untied == UNTIED
    assert_close(merged["token_embedding"]["embedding"] - table, 3 * np.matmul(*list(tensors.values())[::-1]).T)
    assert_close(merged["lm_head"]["kernel"].T - table, 3 * np.matmul(*list(others.values())[::-1]))


@pytest.mark.parametrize(
    ("saved", "ends"),
    [
        (["wte"], "first"),
        (["lm_head"], "second"),
        (["wte", "lm_head"], "both"),
        (None, "tied"),
    ],
)
def test_a_whole_end_of_a_tie(read, table, saved, ends):
    new, other = normal(7, 4), normal(7, 4)
    names = (
        [f"{WTE}.weight"] if saved is None else [{"wte": f"{WTE}.weight"}.get(one, f"{HEAD}.weight") for one in saved]
    )
    tensors = dict(zip(names, (new, other), strict=False))
    adapter, merged = read(LORA | {"modules_to_save": saved}, lora() | tensors)
    assert adapter.untied == (() if ends == "tied" else UNTIED)
    first, second = {"first": (new, table), "second": (table, new), "both": (new, other), "tied": (new, None)}[ends]
    assert_close(merged["token_embedding"]["embedding"], first)
    if ends != "tied":
        assert_close(merged["lm_head"]["kernel"].T, second)


def test_the_bases_embedding_in_the_file_is_both_ends_below_factors_on_one(load, table):
    new, tensors = normal(7, 4), of_table()
    a, b = tensors.values()
    adapter, merged, _ = load(LORA, tensors | {f"{WTE}.base_layer.weight": new})
    assert_close(merged["token_embedding"]["embedding"], new + 3 * (b @ a).T)
    assert_close(merged["lm_head"]["kernel"].T, new)
    assert adapter.also_train == ("^lm_head$", "^token_embedding/embedding$")


DELTA = "token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize("indices", [[3, 5], {"wte": [3, 5]}, {"wte": [3, 5], "lm_head": [3, 5]}])
def test_tokens_of_a_tied_embedding_are_the_heads_too(read, table, indices):
    rows = normal(2, 4)
    adapter, merged = read(LORA | {"trainable_token_indices": indices}, lora() | {f"{WTE}.{DELTA}": rows})
    expected = table.copy()
    expected[[3, 5]] = rows
    assert_close(merged["token_embedding"]["embedding"], expected)
    assert adapter.untied == ()


def test_other_tokens_of_a_tied_head_take_it_apart(read, table):
    rows, others = normal(2, 4), normal(1, 4)
    indices = {"wte": [3, 5], "lm_head": [0]}
    tensors = lora() | {f"{WTE}.{DELTA}": rows, f"{HEAD}.{DELTA}": others}
    adapter, merged = read(LORA | {"trainable_token_indices": indices}, tensors)
    first, second = table.copy(), table.copy()
    first[[3, 5]], second[[0]] = rows, others
    assert_close(merged["token_embedding"]["embedding"], first)
    assert_close(merged["lm_head"]["kernel"].T, second)
    assert adapter.untied == UNTIED


@pytest.mark.parametrize("module", [WTE, HEAD])
def test_tokens_alone_are_full_fine_tuning_of_the_table(read, table, module):
    rows = normal(2, 4)
    config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [6, 1]}
    adapter, merged = read(config, {f"{module}.trainable_tokens_delta": rows})
    assert adapter.transform == Full()
    expected = table.copy()
    expected[[6, 1]] = rows
    assert_close(merged["token_embedding"]["embedding"], expected if module == WTE else table)
    assert ("lm_head" in merged) == (module == HEAD)
    if module == HEAD:
        assert_close(merged["lm_head"]["kernel"].T, expected)


@pytest.mark.parametrize("indices", [[3], [3, 7], [3, 3], [-1, 3], {"wpe": [3, 5]}, [3, "5"], None])
def test_token_indices_that_are_not_those_of_the_rows_are_refused(read, indices):
    with pytest.raises(UserError, match=r"the token indices of transformer.wte are .*; its rows are \[2, 4\]"):
        read(LORA | {"trainable_token_indices": indices}, lora() | {f"{WTE}.{DELTA}": normal(2, 4)})


@pytest.mark.parametrize("which", ["lora_only", "all"])
def test_biases_that_train_beside_lora(read, gpt2, which):
    params, bias, norm = gpt2[1], normal(12), normal(4)
    tensors = lora() | {f"{C_ATTN}.base_layer.bias": bias}
    tensors |= {"transformer.ln_f.bias": norm} if which == "all" else {}
    adapter, merged = read(LORA | {"bias": which}, tensors)
    parts = ("query", "key", "value")
    own = tuple(f"^layer_0/attention/{part}/bias$" for part in sorted(parts))
    assert adapter.also_train == ("^final_norm/bias$",) * (which == "all") + own
    got = np.concatenate([merged["layer_0"]["attention"][part]["bias"] for part in parts])
    assert_close(got, bias)
    assert_close(merged["final_norm"]["bias"], norm if which == "all" else params["final_norm"]["bias"])
    assert merged["final_norm"]["scale"] is params["final_norm"]["scale"]


@pytest.mark.parametrize("whole", [False, True])
def test_the_bias_of_b_is_scaled_and_added_to_the_layers(read, gpt2, whole):
    params, shift, new = gpt2[1], normal(12), normal(12)
    tensors = lora() | {f"{C_ATTN}.lora_B.bias": shift}
    tensors |= {f"{C_ATTN}.base_layer.bias": new} if whole else {}
    _, merged = read(LORA | {"lora_bias": True, "bias": "all" if whole else "none"}, tensors)
    biases = [
        [tree["layer_0"]["attention"][part]["bias"] for part in ("query", "key", "value")] for tree in (params, merged)
    ]
    base, got = map(np.concatenate, biases)
    assert_close(got, (new if whole else base) + 3 * shift)


def test_a_bias_where_the_model_has_none_is_refused(read):
    with pytest.raises(UserError, match=r"lora_bias gives lm_head a bias, and its layer has none"):
        read(LORA | {"lora_bias": True}, lora(HEAD, k=7) | {f"{HEAD}.lora_B.bias": normal(7)})


def test_biases_of_all_stacked_layers(read, gpt2):
    model, params = gpt2
    other = C_ATTN.replace("0", "1")
    tensors = lora() | lora(other) | {f"{name}.base_layer.bias": normal(12) for name in (C_ATTN, other)}
    base = (model.clone(scan_layers=True), stack_layers(params))
    adapter, merged = read(LORA | {"bias": "lora_only"}, tensors, base)
    assert "^layers/attention/query/bias$" in adapter.also_train
    assert_close(merged["layers"]["attention"]["key"]["bias"][1], tensors[f"{other}.base_layer.bias"][4:8])


def test_adalora_is_lora_with_its_singular_values_in_a(read, gpt2):
    a, b, e, more = normal(3, 4), normal(12, 3), normal(3, 1), normal(2, 4)
    tensors = {f"{C_ATTN}.lora_A": a, f"{C_ATTN}.lora_B": b, f"{C_ATTN}.lora_E": e}
    other, none = C_ATTN.replace("0", "1"), "transformer.h.0.mlp.c_fc"
    tensors |= {f"{other}.lora_A": more, f"{other}.lora_B": normal(12, 2), f"{other}.lora_E": normal(2, 1)}
    tensors |= {f"{none}.lora_A": normal(0, 4), f"{none}.lora_B": normal(16, 0), f"{none}.lora_E": normal(0, 1)}
    config = {"peft_type": "ADALORA", "init_r": 4, "lora_alpha": 6, "rank_pattern": {"x": [True]}, "total_step": 9}
    adapter, merged = read(config, tensors)
    assert type(adapter.transform) is LoRA
    got, base = (
        np.concatenate([tree["layer_0"]["attention"][part]["kernel"] for part in ("query", "key", "value")], axis=1)
        for tree in (merged, gpt2[1])
    )
    assert_close(got, base + 6 / (4 + 1e-5) * (b @ (a * e)).T)


def test_block_diagonal_factors_are_put_on_the_diagonal(read, gpt2):
    a, b = normal(2, 2), normal(12, 2)  # A's blocks are [1, 2]
    tensors = {f"{C_ATTN}.lora_A.weight": a, f"{C_ATTN}.lora_B.weight": b}
    _, merged = read(LORA | {"use_bdlora": {"nblocks": 2}}, tensors)
    whole = np.zeros((2, 4), np.float32)
    whole[0, :2], whole[1, 2:] = a
    query = merged["layer_0"]["attention"]["query"]["kernel"] - gpt2[1]["layer_0"]["attention"]["query"]["kernel"]
    assert_close(query, 3 * (b[:4] @ whole).T)
    with pytest.raises(UserError, match="'use_bdlora' must have a whole number of blocks, 'nblocks', not"):
        read(LORA | {"use_bdlora": {"nblocks": 0}}, tensors)


def test_factors_of_a_parameter_are_those_of_its_layer_turned_as_the_parameter_is(read, gpt2):
    tensors = lora(d=12, k=4)  # of a Conv1D's weight, which is [in, out]
    a, b = tensors.values()
    _, merged = read(LORA | {"target_parameters": ["c_attn.weight"]}, tensors)
    query = merged["layer_0"]["attention"]["query"]["kernel"] - gpt2[1]["layer_0"]["attention"]["query"]["kernel"]
    assert_close(query, 3 * (b @ a)[:, :4])


OF_THE_FIRST_VERSIONS = {"enable_lora": None, "merge_weights": False, "fan_in_fan_out": True, "inference_mode": True}


@pytest.mark.parametrize(
    "fields",
    [
        OF_THE_FIRST_VERSIONS,
        {"target_modules": r".*\.c_attn"},
        {"target_modules": "all-linear", "exclude_modules": ["h.1.attn.c_attn"]},
        {"layers_to_transform": [0], "layers_pattern": "h"},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"lora_alpha": 6.0},
    ],
    ids=["of the first versions", "a pattern", "all but one", "layers", "an initialisation", "a float"],
)
def test_whatever_the_targets_are_called_the_tensors_tell_them(read, gpt2, fields):
    tensors = lora()
    a, b = tensors.values()
    adapter, merged = read(LORA | {"target_modules": ["c_attn"], "lora_dropout": 0.1} | fields, tensors)
    assert adapter.transform == LoRA(2, 6.0, dropout=0.1)
    base = gpt2[1]["layer_0"]["attention"]["query"]["kernel"]
    assert_close(merged["layer_0"]["attention"]["query"]["kernel"], base + 3 * (b @ a)[:4].T)
    jax.tree.map(np.testing.assert_array_equal, merged["layer_1"], gpt2[1]["layer_1"])


def test_without_lora_alpha_it_is_pefts_default(read, gpt2):
    tensors = lora()
    a, b = tensors.values()
    _, merged = read({"peft_type": "LORA", "r": 2}, tensors)
    base = gpt2[1]["layer_0"]["attention"]["query"]["kernel"]
    assert_close(merged["layer_0"]["attention"]["query"]["kernel"], base + 4 * (b @ a)[:4].T)


def test_what_only_training_uses_is_left_out(read):
    more = {f"{C_ATTN}.lora_velora_embed": normal(4), f"{C_ATTN}.lora_monteclora_sampler.std_prior": normal(2)}
    config = LORA | {"velora_config": {"scale": 1.0}, "monteclora_config": {"num_samples": 8}}
    adapter, _ = read(config, lora() | more)
    assert adapter.transform == LoRA(2, 6.0)


def test_a_masked_lms_head_comes_apart_as_a_block(with_params, read):
    sizes = {"vocab_size": 7, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig("roberta", **sizes, intermediate_size=6, max_position_embeddings=8, head="mlm")
    model, params = with_params(Roberta(config))
    query = "roberta.encoder.layer.0.attention.self.query"
    table, bias = normal(7, 4), normal(7)
    block = {"dense.weight": normal(4, 4), "dense.bias": normal(4), "layer_norm.weight": normal(4)}
    block |= {"layer_norm.bias": normal(4), "decoder.weight": table, "decoder.bias": bias, "bias": bias}
    tensors = lora(query, k=4) | {f"lm_head.{name}": tensor for name, tensor in block.items()}
    adapter, merged = read(LORA | {"modules_to_save": ["lm_head"]}, tensors, (model, params))
    assert adapter.untied == (("mlm/decoder/kernel", "token_embedding/embedding"),)
    assert_close(merged["mlm"]["decoder"]["kernel"], table.T)
    assert_close(merged["mlm"]["bias"], bias)
    assert merged["token_embedding"] == params["token_embedding"]
    tensors["lm_head.decoder.weight"] = np.asarray(params["token_embedding"]["embedding"])
    adapter, _ = read(LORA | {"modules_to_save": ["lm_head"]}, tensors, (model, params))
    assert adapter.untied == ()
    assert adapter.also_train == ("^mlm$", "^mlm/dense$", "^mlm/norm$")
