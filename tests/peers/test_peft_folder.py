"""Folders of Hugging Face PEFT, live: where its adapters lie, whose head they have, and what our advice is worth."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hut_jax import HUT, Adapter, Head, LoRA, UserError, load_peft, load_pretrained, save_peft, save_pretrained
from tests.peers.torch_models import in_double, shaken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 20}
IDS = np.random.default_rng(0).integers(3, 30, (2, 7))
QV = "attention/(query|value)$"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a small base of the class."""

    def base(name, **fields):
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        kind = getattr(transformers, name)
        shaken(kind(kind.config_class(**SIZES, **fields))).save_pretrained(folder)
        return folder

    return base


def theirs_of(model):
    return in_double(model, IDS)


def ours_of(model, params, adapter, factors):
    return jax.jit(lambda params, factors: adapter.apply(model, params, factors, IDS))(params, factors)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max(), rtol=0)


@pytest.fixture(scope="module")
def gpt2(base):
    """A base, and an adapter of PEFT's on it."""
    folder = base("GPT2LMHeadModel")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM")
    return folder, shaken(peft.get_peft_model(model, config, adapter_name="style"))


def test_an_adapter_with_a_name_is_in_a_subfolder(gpt2, tmp_path):
    folder, theirs = gpt2
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(folder)
    with pytest.raises(UserError, match="that have one are 'style': give subfolder='style'"):
        load_peft(tmp_path, model, params)
    close(ours_of(model, params, *load_peft(tmp_path, model, params, subfolder="style")), theirs_of(theirs))


def test_the_tensors_of_a_whole_model_are_those_of_its_adapter(gpt2, tmp_path):
    folder, theirs = gpt2
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "style" / "adapter_model.safetensors"
    tensors = {f"_orig_mod.{name}": tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert len(tensors) > 2 * len(load_file(path))
    save_file(tensors, path)
    model, params = load_pretrained(folder)
    close(ours_of(model, params, *load_peft(tmp_path / "style", model, params)), theirs_of(theirs))


def test_two_adapters_in_one_file_are_saved_apart_as_advised(gpt2, tmp_path):
    folder, theirs = gpt2
    theirs = copy.deepcopy(theirs)
    theirs.add_adapter("tone", theirs.peft_config["style"])
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "style" / "adapter_model.safetensors"
    save_file({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, path)
    model, params = load_pretrained(folder)
    with pytest.raises(UserError, match=r"the adapters 'style', 'tone'; .*selected_adapters=\['style'\]\)"):
        load_peft(path.parent, model, params)
    theirs.save_pretrained(tmp_path / "apart", selected_adapters=["style"])
    adapter = load_peft(tmp_path / "apart", model, params, subfolder="style")
    close(ours_of(model, params, *adapter), theirs_of(theirs))


def test_a_pickle_is_converted_as_advised(gpt2, tmp_path):
    folder, theirs = gpt2
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    model, params = load_pretrained(folder)
    with pytest.raises(UserError, match=r"PeftModel.from_pretrained\(base, folder\).save_pretrained\(folder\)"):
        load_peft(tmp_path / "style", model, params)
    again = transformers.GPT2LMHeadModel.from_pretrained(folder)
    peft.PeftModel.from_pretrained(again, tmp_path / "style").save_pretrained(tmp_path / "style")
    close(ours_of(model, params, *load_peft(tmp_path / "style", model, params)), theirs_of(theirs))


@pytest.mark.parametrize("field", [{"new_group_size": 32}, {"new_backend": "auto"}, {"new_config": None}])
def test_fields_of_newer_versions_are_ignored_as_there(gpt2, tmp_path, field):
    folder, theirs = gpt2
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "style" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | field))
    model, params = load_pretrained(folder)
    close(ours_of(model, params, *load_peft(path.parent, model, params)), theirs_of(theirs))
    with pytest.warns(UserWarning, match="Unexpected keyword arguments"):
        peft.PeftConfig.from_pretrained(path.parent)


@pytest.mark.parametrize("kind", ["Roberta", "Bert"])
def test_a_classifier_runs_on_a_base_that_has_none_as_advised(base, tmp_path, kind):
    folder = base(f"{kind}ForMaskedLM")
    theirs = getattr(transformers, f"{kind}ForSequenceClassification").from_pretrained(folder, num_labels=3)
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    theirs = shaken(peft.get_peft_model(theirs, config))
    theirs.save_pretrained(tmp_path)
    for head in (None, "none", "classification"):
        with pytest.raises(UserError, match=r"load_pretrained\(base, head=hut_jax.Head\('classification', num_la"):
            load_peft(tmp_path, *load_pretrained(folder, head=head))
    model, params = load_pretrained(folder, head=Head("classification", num_labels=3))
    if kind == "Bert":  # its pooler is drawn, and the adapter does not hold it
        params["pooler"] = pooler_of(theirs)
    close(ours_of(model, params, *load_peft(tmp_path, model, params)), theirs_of(theirs))


def pooler_of(model):
    dense = model.base_model.model.bert.pooler.dense
    return {"kernel": jnp.asarray(dense.weight.detach().numpy().T), "bias": jnp.asarray(dense.bias.detach().numpy())}


@pytest.mark.parametrize("task", ["TOKEN_CLS", None])
def test_a_classifier_of_tokens_is_refused_though_its_tensors_have_known_names(base, tmp_path, task):
    theirs = transformers.BertForTokenClassification.from_pretrained(base("BertForMaskedLM"), num_labels=3)
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], task_type=task)
    theirs = shaken(peft.get_peft_model(theirs, config))
    theirs.save_pretrained(tmp_path)
    of_texts = load_pretrained(base("BertForSequenceClassification"), head=Head("classification", num_labels=3))
    with pytest.raises(UserError, match=r"for labels of tokens .*, and this library has no such head$"):
        load_peft(tmp_path, *of_texts)


def test_gpt2s_classifier_is_merged_and_run_there_as_advised(gpt2, tmp_path):
    folder, _ = gpt2
    model = transformers.GPT2ForSequenceClassification.from_pretrained(folder, pad_token_id=0)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="SEQ_CLS")
    theirs = shaken(peft.get_peft_model(model, config))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no classification head for GPT-2; merge it in PEFT, .* in transformers$"):
        load_peft(tmp_path, *load_pretrained(folder))
    expected = theirs_of(theirs)
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    close(theirs_of(transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "merged")), expected)


@pytest.mark.parametrize(
    ("architecture", "also", "auto", "auto_transformers"),
    [
        ("GPT2LMHeadModel", None, "AutoPeftModelForCausalLM", "AutoModelForCausalLM"),
        (
            "RobertaForSequenceClassification",
            None,
            "AutoPeftModelForSequenceClassification",
            "AutoModelForSequenceClassification",
        ),
        (
            "RobertaForSequenceClassification",
            "classifier/out",
            "AutoPeftModelForSequenceClassification",
            "AutoModelForSequenceClassification",
        ),
        (
            "BertForSequenceClassification",
            "classifier",
            "AutoPeftModelForSequenceClassification",
            "AutoModelForSequenceClassification",
        ),
        ("RobertaForSequenceClassification", None, "AutoPeftModel", "AutoModelForSequenceClassification"),
        ("RobertaModel", None, "AutoPeftModelForFeatureExtraction", "AutoModel"),
        ("BertForMaskedLM", None, "AutoPeftModel", "AutoModelForMaskedLM"),
        ("RobertaForMaskedLM", None, "AutoPeftModel", "AutoModelForMaskedLM"),
    ],
)
def test_what_we_saved_is_read_by_name_alone(base, tmp_path, architecture, also, auto, auto_transformers):
    folder = base(architecture)
    model, params = load_pretrained(folder)
    adapter = Adapter(LoRA(rank=2), QV, also_train=also)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    random = np.random.default_rng(1)
    factors = jax.tree.map(lambda leaf: jnp.asarray(np.float32(0.2 * random.standard_normal(leaf.shape))), shapes)
    save_peft(tmp_path, adapter, factors, model, params, base_name=str(folder))
    expected = ours_of(model, params, adapter, factors)
    close(theirs_of(getattr(peft, auto).from_pretrained(tmp_path)), expected)
    close(theirs_of(getattr(transformers, auto_transformers).from_pretrained(tmp_path)), expected)


def test_an_adapted_head_is_read_by_name_alone(base, tmp_path):
    folder = base("RobertaForSequenceClassification")
    model, params = load_pretrained(folder)
    adapter = Adapter(LoRA(rank=2), "classifier/dense$")
    factors = jax.tree.map(jnp.ones_like, adapter.init(jax.random.key(0), params))
    save_peft(tmp_path, adapter, factors, model, params, base_name=str(folder))
    close(theirs_of(peft.AutoPeftModel.from_pretrained(tmp_path)), ours_of(model, params, adapter, factors))


def test_a_merged_export_runs_there_as_advised(gpt2, tmp_path):
    folder, _ = gpt2
    model, params = load_pretrained(folder)
    adapter = Adapter(HUT(rank=2), QV)
    factors = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(jax.random.key(0), params))
    with pytest.raises(UserError, match=r"save_pretrained\(folder, model, adapter.merge\(params, factors\)\)"):
        save_peft(tmp_path, adapter, factors, model, params)
    save_pretrained(tmp_path, model, adapter.merge(params, factors))
    merged = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    close(theirs_of(merged), ours_of(model, params, adapter, factors))


def trained(base, targets=("query", "value"), **config):
    """A base of their masked LM, and an adapter trained on it."""
    folder = base("RobertaForMaskedLM")
    model = transformers.RobertaForMaskedLM.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=list(targets), **config)
    return folder, shaken(peft.get_peft_model(model, config))


def test_kasa_is_merged_there(base, tmp_path):
    folder, theirs = trained(base, kasa_config=peft.KasaConfig())
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"merge it in PEFT, merge_and_unload\(\), and load the merged model"):
        load_peft(tmp_path / "theirs", *load_pretrained(folder))
    again = transformers.RobertaForMaskedLM.from_pretrained(folder)
    peft.PeftModel.from_pretrained(again, tmp_path / "theirs").merge_and_unload().save_pretrained(tmp_path / "merged")
    model, params = load_pretrained(tmp_path / "merged")
    close(jax.jit(model.apply)({"params": params}, IDS), theirs_of(theirs))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kasa_on_a_tied_head_has_no_way_out(base, tmp_path):
    folder, theirs = trained(base, ["query", "decoder"], kasa_config=peft.KasaConfig())
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"cannot merge it on lm_head.decoder, which is tied: there is no way$"):
        load_peft(tmp_path, *load_pretrained(folder))
    expected = theirs_of(theirs)
    assert np.abs(theirs_of(theirs.merge_and_unload()) - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("targets", [["query", "value"], ["query", "decoder"]])
@pytest.mark.parametrize("name", ["pissa", "olora"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_base_that_peft_changes_again_is_saved_there(base, tmp_path, name, targets):
    folder, theirs = trained(base, targets, init_lora_weights=name)
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        UserError, match=r"in PEFT, PeftModel.from_pretrained\(base, FOLDER\).unload\(\).save_pretrained"
    ):
        load_peft(tmp_path / "theirs", *load_pretrained(folder))
    again = transformers.RobertaForMaskedLM.from_pretrained(folder)
    peft.PeftModel.from_pretrained(again, tmp_path / "theirs").unload().save_pretrained(tmp_path / "base")
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
    model, params = load_pretrained(tmp_path / "base")
    close(ours_of(model, params, *load_peft(tmp_path / "theirs", model, params)), theirs_of(theirs))


def test_a_base_that_chance_changed_is_saved_where_it_trains(base, tmp_path):
    folder, theirs = trained(base, init_lora_weights="pissa_niter_4")
    expected = theirs_of(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"save the changed base where you train, model.unload\(\).save_pretrained"):
        load_peft(tmp_path / "theirs", *load_pretrained(folder))
    theirs.unload().save_pretrained(tmp_path / "base")
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
    model, params = load_pretrained(tmp_path / "base")
    close(ours_of(model, params, *load_peft(tmp_path / "theirs", model, params)), expected)


def test_what_has_no_way_out_says_so_and_peft_cannot_merge_it_either(gpt2, tmp_path):
    folder, _ = gpt2
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", alora_invocation_tokens=[5])
    theirs = peft.get_peft_model(model, config)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"act only on the tokens after an invocation, which no weights can do$"):
        load_peft(tmp_path, *load_pretrained(folder))
    with pytest.raises(NotImplementedError, match="does not support merging"):
        theirs.merge_and_unload()
