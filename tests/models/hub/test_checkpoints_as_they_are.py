"""Checkpoints as people have them: other names, ties, shards, heads and configs, read as transformers reads them."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax.core.errors import UserError
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.heads import Head
from hut_jax.models.hub.pretrained import build_model, load_pretrained
from hut_jax.models.roberta_config import RobertaConfig
from tests.goldens.archives import golden_models

MODELS = golden_models()
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(tmp_path):
    """A golden checkpoint by name, to be changed."""
    return lambda name: Path(shutil.copytree(MODELS / name, tmp_path / name))


def edit(folder, change):
    """Rewrites model.safetensors with what `change(tensors)` returns, or with the changed tensors."""
    tensors = load_file(folder / SINGLE)
    save_file(change(tensors) or tensors, folder / SINGLE, metadata={"format": "pt"})


def edit_json(path, **values):
    values = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def load(folder, **kwargs):
    """The parameters, and what was reported."""
    lines = []
    return load_pretrained(folder, report=lines.append, **kwargs)[1], lines


def check_equal(folder, expected, **kwargs):
    """Loading reports nothing and gives these parameters."""
    params, lines = load(folder, **kwargs)
    assert lines == []
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def refused(message, folder, **kwargs):
    with pytest.raises(UserError, match=message) as error:
        load(folder, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gpt2_left_padded", "roberta_mlm", "bert_classification"])
@pytest.mark.parametrize("wrapper", ["module.", "_module.", "_orig_mod.", "module._orig_mod.", "gpt.", "a.b.model."])
def test_what_a_wrapper_puts_before_every_name_is_taken_off(copy, name, wrapper):
    folder, expected = copy(name), load(MODELS / name)[0]
    edit(folder, lambda t: {f"{wrapper}{key}": value for key, value in t.items()})
    check_equal(folder, expected)


def test_what_wrappers_put_into_the_names_is_taken_out(copy):
    folder, expected = copy("gpt2_left_padded"), load(MODELS / "gpt2_left_padded")[0]
    inner = {".h.0.": ".h.0._orig_mod.", ".h.1.": ".h.1._checkpoint_wrapped_module._fsdp_wrapped_module."}
    edit(folder, lambda t: {re.sub(r"\.h\.\d\.", lambda m: inner[m[0]], key): value for key, value in t.items()})
    check_equal(folder, expected)


def test_two_prefixes_are_not_one(copy):
    folder = copy("gpt2_left_padded")
    edit(folder, lambda t: {f"{'a' if '.h.0.' in key else 'b'}.{key}": value for key, value in t.items()})
    refused("28 missing: .*; 28 unknown: 'a.transformer", folder)


@pytest.mark.parametrize(
    "names",
    [
        ["v_head.summary.weight", "v_head.summary.bias"],
        ["score.weight"],
        ["multiple_choice_head.summary.weight"],
        ["classifier.weight", "qa_outputs.bias"],
    ],
)
def test_heads_of_other_tasks_are_left_out_and_reported(copy, names):
    folder, expected = copy("gpt2_left_padded"), load(MODELS / "gpt2_left_padded")[0]
    edit(folder, lambda t: t.update({name: np.zeros((1, 12), np.float32) for name in names}))
    params, (line,) = load(folder)
    assert line.endswith("left out, since head 'causal' has no use for them: " + ", ".join(map(repr, sorted(names))))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_buffers_of_old_files_are_no_parameters(copy):
    dtypes = {0: np.bool_, 1: np.uint8}
    masks = {f"transformer.h.{i}.attn.bias": np.ones((1, 1, 9, 9), dtype) for i, dtype in dtypes.items()}
    masks |= {f"transformer.h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in dtypes}
    positions = {"roberta.embeddings.position_ids": np.arange(9)[None]}
    for name, buffers in (("gpt2_left_padded", masks), ("roberta_mlm", positions)):
        folder, expected = copy(name), load(MODELS / name)[0]
        edit(folder, lambda t, buffers=buffers: t.update(buffers))
        check_equal(folder, expected)


def test_a_tensor_within_the_body_that_we_do_not_know_is_not_left_out(copy):
    for name, tensor in (
        ("gpt2_left_padded", "transformer.h.0.crossattention.c_attn.weight"),
        ("roberta_mlm", "roberta.encoder.layer.0.attention.self.distance_embedding.weight"),
        ("bert_classification", "bert.encoder.layer.0.attention.self.query.lora_A.weight"),
    ):
        folder = copy(name)
        edit(folder, lambda t, tensor=tensor: t.update({tensor: np.zeros(3, np.float32)}))
        refused(f"1 unknown: '{tensor}'", folder)


TIES = [
    ("gpt2_left_padded", {"lm_head.weight": "transformer.wte.weight"}),
    (
        "roberta_mlm",
        {
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    ),
    (
        "bert_mlm",
        {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
    ),
]


@pytest.mark.parametrize(("name", "ties"), TIES)
def test_of_a_tied_pair_the_file_may_hold_either_name_or_both(copy, name, ties):
    folder, expected = copy(name), load(MODELS / name)[0]
    edit(folder, lambda t: t.update({other: t[own] for other, own in ties.items()}))
    check_equal(folder, expected)
    for own in ties.values():
        edit(folder, lambda t, own=own: t.pop(own) is None)
        check_equal(folder, expected)
    other = next(iter(ties))
    edit(folder, lambda t: t.pop(other) is None)
    refused(f"1 missing: '{ties[other]}'", folder)


def test_a_head_that_only_the_config_unties_is_missing_and_the_advice_ties_it(copy):
    for name, head in (("gpt2_left_padded", "lm_head.weight"), ("bert_mlm", "cls.predictions.decoder.weight")):
        folder, expected = copy(name), load(MODELS / name)[0]
        edit_json(folder / "config.json", tie_word_embeddings=False)
        refused(f"1 missing: '{head}'; if the head is the embedding, set 'tie_word_embeddings' to true", folder)
        edit_json(folder / "config.json", tie_word_embeddings=True)
        check_equal(folder, expected)
        edit_json(folder / "config.json", tie_word_embeddings=False)
        edit(folder, lambda t: t.pop(next(key for key in t if "norm" in key.lower() or "ln_" in key)) is None)
        with pytest.raises(UserError, match=r"2 missing: [^;]*$"):
            load(folder)


def test_an_encoder_is_read_from_the_tied_decoder_of_its_masked_lm(copy):
    folder = copy("roberta_mlm")
    table = load(folder)[0]["token_embedding"]
    edit(folder, lambda t: t.update({"lm_head.decoder.weight": t.pop("roberta.embeddings.word_embeddings.weight")}))
    for head in ("none", "classification"):
        jax.tree.map(np.testing.assert_array_equal, load(folder, head=head)[0]["token_embedding"], table)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    refused("1 missing: 'embeddings.word_embeddings.weight'", folder, head="none")


@pytest.mark.full
def test_tied_tables_that_differ_are_refused_and_the_advice_unties_them(copy):
    for name, ties in TIES:
        other, own = next(iter(ties.items()))
        folder = copy(name)
        edit(folder, lambda t, other=other, own=own: t.update({other: t[own] * 2}))
        refused(f"'{other}' is not '{own}', to which config.json ties it; .* 'tie_word_embeddings' to false", folder)
        edit_json(folder / "config.json", tie_word_embeddings=False)
        params, lines = load(folder)
        kernel = (params.get("lm_head") or params["mlm"]["decoder"])["kernel"]
        np.testing.assert_array_equal(kernel.T, params["token_embedding"]["embedding"] * 2)
        assert lines == []


def test_of_two_tied_biases_that_differ_the_decoders_is_read_with_a_line(copy):
    folder = copy("roberta_mlm")
    edit(folder, lambda t: t.update({"lm_head.decoder.bias": t["lm_head.bias"] + 1}))
    params, (line,) = load(folder)
    np.testing.assert_array_equal(params["mlm"]["bias"], load(MODELS / "roberta_mlm")[0]["mlm"]["bias"] + 1)
    assert "'lm_head.bias' and 'lm_head.decoder.bias' differ" in line


def test_old_names_of_norms_are_read_in_every_model(copy):
    for name in ("gpt2_left_padded", "roberta_mlm"):
        folder, expected = copy(name), load(MODELS / name)[0]
        norm = re.compile(r"((?:ln_\w+|LayerNorm|layer_norm)\.)(weight|bias)$")
        old = {"weight": "gamma", "bias": "beta"}
        edit(folder, lambda t, norm=norm, old=old: {norm.sub(lambda m: m[1] + old[m[2]], k): v for k, v in t.items()})
        assert any(key.endswith(".gamma") for key in load_file(folder / SINGLE))
        check_equal(folder, expected)


@pytest.fixture
def in_two(copy):
    """A function that writes a checkpoint's tensors as two shards with these changes, and the parameters."""
    folder = copy("gpt2_left_padded")
    expected, tensors = load(folder)[0], load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}

    def write(index=True, second=None, promised=None):
        for i, (file, held) in enumerate(files.items()):
            shard = {name: tensors[name] for name in held}
            save_file({**shard, **((second or {}) if i else {})}, folder / file)
        placed = {name: file for file, held in files.items() for name in held}
        (folder / INDEX).write_text(json.dumps({"weight_map": {**placed, **(promised or {})}}))
        if not index:
            (folder / INDEX).unlink()
        return folder

    return write, expected, tensors, list(files)


def test_shards_may_hold_more_than_their_index_says(in_two):
    write, expected, tensors, (first, _) = in_two
    name = min(tensors)
    check_equal(write(second={"lm_head.weight": tensors["transformer.wte.weight"]}), expected)
    check_equal(write(second={name: tensors[name]}), expected)
    check_equal(write(promised={max(tensors): first}), expected)  # which does not hold it
    check_equal(write(promised={"lm_head.weight": first}), expected)  # held by neither, and not needed
    folder = write(second={name: tensors[name] * 2})
    refused(f"two shards hold '{name}', and they differ; transformers takes the last", folder)


def test_shards_are_read_without_an_index_if_all_are_there(in_two, copy):
    write, expected, _, files = in_two
    folder = write(index=False)
    check_equal(folder, expected)
    (folder / files[0]).unlink()
    refused("no model.safetensors.index.json, and not all shards .*, but 1; fetch them again", folder)
    alone = copy("gpt2_left_padded_positions")
    expected = load(alone)[0]
    (alone / SINGLE).rename(alone / "model-00001-of-00001.safetensors")
    check_equal(alone, expected)


def test_one_file_is_read_rather_than_the_shards_beside_it(in_two):
    write, expected, tensors, _ = in_two
    folder = write()
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / SINGLE)
    check_equal(folder, jax.tree.map(lambda leaf: leaf * 2, expected))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({"id2label": None, "label2id": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"0": 0, "1": 1, "2": 2}}, ("0", "1", "2")),
        ({"id2label": {"0": None, "1": "b", "2": None}}, ("LABEL_0", "b", "LABEL_2")),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, ("LABEL_0", "a", "b")),
        ({"id2label": {"0": "x", "1": "x", "2": "x"}}, ("x", "x", "x")),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_labels_of_every_kind(copy, values, labels):
    folder, expected = copy("roberta_classification"), load(MODELS / "roberta_classification")[0]
    edit_json(folder / "config.json", **values)
    assert build_model(folder).config.labels == labels
    check_equal(folder, expected)


def test_another_number_of_labels_than_the_files_is_refused_and_both_ways_out_work(copy):
    folder, expected = copy("roberta_classification"), load(MODELS / "roberta_classification")[0]
    edit_json(folder / "config.json", id2label=..., label2id={"a": 0, "b": 1, "c": 2})
    refused(
        r"the files have 3 labels: ask for them with Head\(num_labels=3\), or write 'num_labels': 3 for 'id2label'",
        folder,
    )
    check_equal(folder, expected, head=Head(num_labels=3))
    edit_json(folder / "config.json", num_labels=3)
    check_equal(folder, expected)


def test_a_config_without_sizes_has_transformers_defaults_and_may_use_its_other_names(copy):
    assert GPT2Config.from_json({}) == GPT2Config(50257, 1024, 768, 12, 12)
    bert = RobertaConfig.from_json({"model_type": "bert"})
    assert (bert.vocab_size, bert.max_position_embeddings, bert.num_hidden_layers) == (30522, 512, 12)
    assert RobertaConfig.from_json({"model_type": "roberta"}).vocab_size == 50265
    folder, expected = copy("gpt2_left_padded"), load(MODELS / "gpt2_left_padded")[0]
    path = folder / "config.json"
    values = json.loads(path.read_text())
    renamed = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    path.write_text(json.dumps({renamed.get(name, name): value for name, value in values.items()}))
    check_equal(folder, expected)


def test_a_config_older_than_model_type_is_known_by_its_architectures(copy):
    for name in ("gpt2_left_padded", "roberta_classification", "bert_mlm"):
        folder, expected = copy(name), load(MODELS / name)[0]
        edit_json(folder / "config.json", model_type=...)
        check_equal(folder, expected)
        edit_json(folder / "config.json", architectures=["FalconForCausalLM"])
        refused("no 'model_type'", folder)


def test_roberta_without_padding_counts_its_positions_from_zero():
    config = RobertaConfig.from_json({"model_type": "roberta", "pad_token_id": -1, "max_position_embeddings": 12})
    assert (config.position_offset, config.n_positions) == (0, 12)


def test_a_config_that_asks_for_more_than_the_files_can_hold_is_refused_before_it_costs_anything(copy):
    folder = copy("gpt2_left_padded")
    edit_json(folder / "config.json", n_layer=10**7)
    refused("config.json has 10000000 layers, and the files only 28 tensors", folder)
    folder = copy("roberta_classification")
    edit_json(folder / "config.json", id2label=..., num_labels=10**12)
    refused("'num_labels' must be a whole number of at least 1, not 1000000000000", folder)
