"""Loading with the checkpoint's own head, with another one, and what of it is drawn, left out and reported."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from hut_jax.core.errors import UserError
from hut_jax.models.compute import Compute
from hut_jax.models.hub.heads import Head
from hut_jax.models.hub.pretrained import build_model, init_params, load_pretrained
from hut_jax.models.hub.saving import save_pretrained
from tests.goldens.archives import golden_models

MODELS = golden_models()


@pytest.fixture
def copy(tmp_path):
    """A golden checkpoint by name, to be changed."""
    return lambda name: Path(shutil.copytree(MODELS / name, tmp_path / name))


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_json(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(message, call, *args, **kwargs):
    with pytest.raises(UserError, match=message) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)


def load(name, **kwargs):
    """The model, its parameters by path, and what was reported."""
    lines = []
    model, params = load_pretrained(MODELS / name, report=lines.append, **kwargs)
    return model, flatten_dict(params, sep="/"), lines


@pytest.mark.parametrize(
    ("name", "head", "labels"),
    [
        ("roberta_odd", "none", ("LABEL_0", "LABEL_1")),
        ("roberta_mlm", "mlm", ("LABEL_0", "LABEL_1")),
        ("roberta_classification", "classification", ("entailment", "neutral", "contradiction")),
        ("bert_classification", "classification", ("LABEL_0",)),
    ],
)
def test_the_head_is_the_one_of_the_architectures(name, head, labels):
    model, _, lines = load(name)
    assert (model.config.head, model.config.labels) == (head, labels)
    assert lines == []
    assert model.config == build_model(MODELS / name).config
    assert model == build_model(MODELS / name)


@pytest.mark.full
def test_a_head_that_the_files_lack_is_drawn_with_the_key_and_reported():
    own, before, _ = load("roberta_mlm")
    model, params, lines = load("roberta_mlm", head=Head("classification", num_labels=3), key=jax.random.key(7))
    drawn = [f"classifier/{layer}/{leaf}" for layer in ("dense", "out") for leaf in ("kernel", "bias")]
    start = flatten_dict(init_params(model, jax.random.key(7)), sep="/")
    for path, leaf in params.items():
        np.testing.assert_array_equal(leaf, start[path] if path in drawn else before[path])
    assert params.keys() - before.keys() == set(drawn)
    assert model.config == dataclasses.replace(
        own.config, head="classification", labels=("LABEL_0", "LABEL_1", "LABEL_2")
    )
    first, second = lines
    assert first.endswith(f"have none that fit: {', '.join(map(repr, drawn))}")
    assert "left out, since head 'classification' has no use for them: 'lm_head." in second
    assert second.endswith("and 1 more")
    other = load("roberta_mlm", head=Head("classification", num_labels=3))[1]
    assert not np.array_equal(other["classifier/out/kernel"], params["classifier/out/kernel"])
    np.testing.assert_array_equal(
        load("roberta_mlm", head=Head("classification", num_labels=3))[1]["classifier/out/kernel"],
        other["classifier/out/kernel"],
    )


def test_what_another_head_shares_is_read():
    """BERT's bare class has the pooler that its classification needs."""
    bare, before, _ = load("bert_bare")
    model, params, lines = load(
        "bert_bare", head=Head("classification", problem_type="regression", labels=["similarity"])
    )
    np.testing.assert_array_equal(params["pooler/kernel"], before["pooler/kernel"])
    assert model.config.labels == ("similarity",)
    assert model.config.problem_type == "regression"
    assert bare.config.problem_type is None
    assert len(lines) == 1
    assert lines[0].endswith("'classifier/out/kernel', 'classifier/out/bias'")


def test_drawn_heads_under_scan_and_in_bf16_are_the_same_numbers():
    plain = load("bert_bare", head="mlm")[1]
    scanned = load("bert_bare", head="mlm", compute=Compute(scan_layers=True, dtype=jnp.bfloat16))[1]
    for path in ("mlm/dense/kernel", "mlm/norm/scale"):
        np.testing.assert_array_equal(scanned[path], plain[path].astype(jnp.bfloat16))
    assert scanned["layers/mlp/up/kernel"].shape == (3, 12, 20)


def test_another_number_of_labels_keeps_the_rest_of_the_head():
    before = load("roberta_classification")[1]
    model, params, lines = load("roberta_classification", head=Head(num_labels=2))
    np.testing.assert_array_equal(params["classifier/dense/kernel"], before["classifier/dense/kernel"])
    assert params["classifier/out/kernel"].shape == (12, 2)
    assert model.config.labels == ("LABEL_0", "LABEL_1")
    assert ["drawn at random" in line for line in lines] == [True, False]
    assert "'classifier.out_proj.bias'" in lines[1]


def test_other_names_for_as_many_labels_keep_the_whole_head():
    model, params, lines = load("roberta_classification", head=Head(labels=("a", "b", "c")))
    assert model.config.labels == ("a", "b", "c")
    assert lines == []
    np.testing.assert_array_equal(
        params["classifier/out/bias"], load("roberta_classification")[1]["classifier/out/bias"]
    )


def test_without_a_report_the_lines_are_logged(caplog):
    with caplog.at_level(logging.WARNING, logger="hut_jax"):
        load_pretrained(MODELS / "roberta_mlm", head="none")
    assert [line.split(":")[1].split(",")[0].strip() for line in caplog.messages] == ["drawn at random", "left out"]


def test_a_damaged_head_of_its_own_is_refused_and_not_drawn(copy):
    folder = copy("roberta_classification")
    edit(folder, lambda t: t.pop("classifier.out_proj.bias"))
    refused("1 missing: 'classifier.out_proj.bias'", load_pretrained, folder)
    edit_json(folder, id2label={"0": "a", "1": "b"})
    refused(r"1 of another shape: 'classifier.out_proj.weight \[3, 12\], not \[2, 12\]'", load_pretrained, folder)
    edit(folder, lambda t: t.pop("roberta.encoder.layer.1.output.dense.bias"))
    refused("1 missing: 'roberta.encoder", load_pretrained, folder, head="mlm")


def test_the_encoder_with_and_without_prefix_is_the_same(copy):
    folder = copy("roberta_mlm")

    def bare(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("roberta.")] = tensors.pop(name)

    edit(folder, bare)
    params = flatten_dict(load_pretrained(folder)[1], sep="/")
    for path, leaf in load("roberta_mlm")[1].items():
        np.testing.assert_array_equal(params[path], leaf)


def test_the_untied_bias_has_two_names_and_the_decoders_comes_first(copy):
    folder = copy("roberta_untied")
    stored = load_file(folder / "model.safetensors")
    assert not np.array_equal(stored["lm_head.bias"], stored["lm_head.decoder.bias"])
    np.testing.assert_array_equal(load_pretrained(folder)[1]["mlm"]["bias"], stored["lm_head.decoder.bias"])
    edit(folder, lambda t: t.pop("lm_head.decoder.bias"))
    np.testing.assert_array_equal(load_pretrained(folder)[1]["mlm"]["bias"], stored["lm_head.bias"])
    edit(folder, lambda t: t.pop("lm_head.bias"))
    refused("1 missing: 'lm_head.decoder.bias'", load_pretrained, folder)


def test_pretraining_checkpoints_are_read_as_masked_language_models(copy):
    folder = copy("bert_mlm")
    edit_json(folder, architectures=["BertForPreTraining"])
    edit(folder, lambda t: t.update({"cls.seq_relationship.bias": np.zeros(2, np.float32)}))
    lines = []
    model, _ = load_pretrained(folder, report=lines.append)
    assert model.config.head == "mlm"
    assert len(lines) == 1
    assert lines[0].endswith("'cls.seq_relationship.bias'")


def test_an_unknown_architecture_must_be_told_its_head(copy):
    folder = copy("bert_bare")
    edit_json(folder, architectures=["BertForTokenClassification"])
    refused(
        r"\['BertForTokenClassification'\] is supported.*with one of the heads 'classification', 'mlm', 'none'",
        load_pretrained,
        folder,
    )
    assert load_pretrained(folder, head="none")[0].config.head == "none"
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "architectures"}))
    assert build_model(folder).config.head == "none"


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("gpt2_odd", {"name": "classification"}, r"gpt2 has no head 'classification'; valid: 'causal'"),
        ("roberta_odd", {"name": "causal"}, r"roberta has no head 'causal'"),
        ("roberta_odd", {"name": "clasification"}, r"did you mean 'classification'"),
        ("roberta_mlm", {"num_labels": 2}, r"num_labels is for head 'classification', not for 'mlm'"),
        ("roberta_mlm", {"name": "classification", "num_labels": 0}, r"whole number of at least 1, not 0"),
        ("roberta_mlm", {"name": "classification", "labels": ()}, r"labels must be different names"),
        ("roberta_mlm", {"name": "classification", "labels": "ab"}, r"labels must be different names"),
        ("roberta_mlm", {"name": "classification", "labels": ["a", "a"]}, r"labels must be different names"),
        ("roberta_mlm", {"name": "classification", "labels": ["a"], "num_labels": 2}, r"is 2 and there are 1 labels"),
        ("roberta_mlm", {"name": "classification", "problem_type": "regresion"}, r"did you mean 'regression'"),
    ],
)
def test_heads_and_labels_that_make_no_sense(name, asked, message):
    refused(message, lambda: load_pretrained(MODELS / name, head=Head(**asked)))
    refused(message, lambda: build_model(MODELS / name, head=Head(**asked)))


def test_a_pickle_is_converted_with_its_own_class(copy):
    folder = copy("bert_classification")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(
        r"only pytorch_model.bin, a pickle.*BertForSequenceClassification.from_pretrained\(NAME\).save_pretrained",
        load_pretrained,
        folder,
        head="mlm",
    )


def test_distilbert_is_not_bert(copy):
    folder = copy("bert_bare")
    edit_json(folder, model_type="distilbert")
    refused("model_type 'distilbert' is not supported; did you mean 'bert'", load_pretrained, folder)


def test_a_drawn_head_is_saved_with_its_names(tmp_path):
    model, params = load_pretrained(
        MODELS / "roberta_mlm", head=Head("classification", labels=["no", "yes"]), report=print
    )
    save_pretrained(tmp_path, model, params)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["architectures"] == ["RobertaForSequenceClassification"]
    assert values["id2label"] == {"0": "no", "1": "yes"}
    assert values["label2id"] == {"no": 0, "yes": 1}
    again, loaded = load_pretrained(tmp_path)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
