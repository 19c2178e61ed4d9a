"""Checkpoints as people have them, against transformers on the same files: the same logits."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hut_jax import UserError, load_pretrained, save_pretrained
from hut_jax.models.activations import ACTIVATIONS, FIXED
from tests.parity import change, check_parity

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
activations = pytest.importorskip("transformers.activations")

IDS = np.array([[5, 8, 13, 21, 3, 5], [7, 11, 18, 9, 4, 6]])
ENCODER = {
    "vocab_size": 23,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 14,
    "initializer_range": 0.4,
}
GPT2 = {"vocab_size": 23, "n_positions": 14, "n_embd": 8, "n_layer": 2, "n_head": 2, "initializer_range": 0.4}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def models():
    """By name: a model with every parameter random, and its tied pairs."""
    torch.manual_seed(0)
    gpt2 = transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0)
    roberta, bert = transformers.RobertaConfig(**ENCODER), transformers.BertConfig(**ENCODER)
    three = transformers.RobertaConfig(**ENCODER, num_labels=3)
    made = {
        "gpt2": (transformers.GPT2LMHeadModel(gpt2), {"lm_head.weight": "transformer.wte.weight"}),
        "roberta": (
            transformers.RobertaForMaskedLM(roberta),
            {
                "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
                "lm_head.decoder.bias": "lm_head.bias",
            },
        ),
        "bert": (
            transformers.BertForMaskedLM(bert),
            {
                "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
                "cls.predictions.decoder.bias": "cls.predictions.bias",
            },
        ),
        "labels": (transformers.RobertaForSequenceClassification(three), {}),
    }
    for model, _ in made.values():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """By name: a saved model, its tensors and its tied pairs."""
    bases = {}
    for name, (model, ties) in models().items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        bases[name] = folder, load_file(folder / "model.safetensors"), ties
    return bases


def as_head_alone(tensors, ties):
    return {{own: other for other, own in ties.items()}.get(name, name): value for name, value in tensors.items()}


def with_both(tensors, ties):
    return {**tensors, **{other: tensors[own] for other, own in ties.items()}}


def with_another_bias(tensors, ties):
    return {**with_both(tensors, ties), **{o: tensors[own] + 1 for o, own in ties.items() if o.endswith("bias")}}


# What is done to the tensors; then each base to which it applies.
TENSORS = {
    "as they are": lambda tensors, ties: tensors,
    "of ties the head's names alone": as_head_alone,
    "of ties both names": with_both,
    "two biases that differ": with_another_bias,
    "a head of another task": lambda tensors, ties: {**tensors, "v_head.summary.weight": np.zeros((1, 8), np.float32)},
    "half precision": lambda tensors, ties: {name: value.astype(np.float16) for name, value in tensors.items()},
    "old names of norms": lambda tensors, ties: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    },
}
# What is written into config.json.
CONFIGS = {
    "gpt2": [
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "reorder_and_upcast_attn": True},
        {"eos_token_id": 97, "pad_token_id": -1, "n_ctx": 14, "activation_function": "quick_gelu"},
        {"n_embd": ..., "hidden_size": 8, "n_head": ..., "num_attention_heads": 2},
    ],
    "labels": [
        {"id2label": None, "label2id": None, "num_labels": 3},
        {"id2label": {"0": 0, "1": 1, "2": 2}, "label2id": {"0": 0, "1": 1, "2": 2}},
        {"id2label": {"0": None, "1": None, "2": None}},
        {"id2label": {"0": "a", "1": "b"}, "num_labels": 3},
        {"hidden_act": "gelu_fast", "hidden_size": 8, "type_vocab_size": 2, "layer_norm_eps": ...},
    ],
}


@partial(jax.jit, static_argnums=0)
def run(model, params):
    return model.apply({"params": params}, IDS)


def their_logits(folder):
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    with torch.no_grad():
        return getattr(transformers, name).from_pretrained(folder).eval().float()(torch.tensor(IDS)).logits.numpy()


def check(folder):
    model, params = load_pretrained(folder)
    check_parity(run(model, params), their_logits(folder), run(model, change(params)), 1e-4)


def copy_config(bases, name, folder, **values):
    given = {**json.loads((bases[name][0] / "config.json").read_text()), **values}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in given.items() if value is not ...}))


def save(tensors, path):
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, {"format": "pt"})


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("name", ["gpt2", "roberta", "bert", "labels"])
def test_tensors(bases, name, what, tmp_path):
    _, tensors, ties = bases[name]
    copy_config(bases, name, tmp_path)
    save(TENSORS[what](tensors, ties), tmp_path / "model.safetensors")
    check(tmp_path)


@pytest.mark.parametrize(
    ("name", "i"), [(name, i) for name, all_values in CONFIGS.items() for i in range(len(all_values))]
)
def test_configs(bases, name, i, tmp_path):
    copy_config(bases, name, tmp_path, **CONFIGS[name][i])
    save(bases[name][1], tmp_path / "model.safetensors")
    check(tmp_path)


@pytest.mark.parametrize("what", ["as it should be", "twice", "not in the index", "elsewhere", "one file beside"])
def test_shards(bases, what, tmp_path):
    _, tensors, ties = bases["gpt2"]
    copy_config(bases, "gpt2", tmp_path)
    names = sorted(tensors)
    placed = {name: (FIRST, SECOND)[i % 2] for i, name in enumerate(names)}
    second = {name: tensors[name] for name in names[1::2]}
    if what == "twice":
        second[names[0]] = tensors[names[0]]
    elif what == "not in the index":
        second.update({other: tensors[own] for other, own in ties.items()})
    elif what == "elsewhere":
        placed[names[1]] = FIRST
    elif what == "one file beside":
        save({name: tensor * 1.5 for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    save({name: tensors[name] for name in names[::2]}, tmp_path / FIRST)
    save(second, tmp_path / SECOND)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    check(tmp_path)


def test_copies_that_differ_are_what_transformers_makes_of_them_once_the_advice_is_taken(bases, tmp_path):
    _, tensors, _ = bases["gpt2"]
    copy_config(bases, "gpt2", tmp_path)
    save(tensors, tmp_path / FIRST)
    save({"transformer.wte.weight": tensors["transformer.wte.weight"] * 1.5}, tmp_path / SECOND)
    index = {"metadata": {}, "weight_map": {**dict.fromkeys(tensors, FIRST), "x": SECOND}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="transformers takes the last of them: load the model there and save it"):
        load_pretrained(tmp_path)
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    _, params = load_pretrained(tmp_path / "again")
    table = np.asarray(params["token_embedding"]["embedding"])
    np.testing.assert_array_equal(table, tensors["transformer.wte.weight"] * 1.5)


@pytest.mark.parametrize("name", ["gpt2", "roberta", "bert"])
def test_tied_tables_that_differ_are_what_transformers_makes_of_them_once_the_advice_is_taken(bases, name, tmp_path):
    _, tensors, ties = bases[name]
    other, own = next(iter(ties.items()))
    save({**with_both(tensors, ties), other: tensors[own] * 1.5}, tmp_path / "model.safetensors")
    copy_config(bases, name, tmp_path)
    with pytest.raises(UserError, match="set its 'tie_word_embeddings' to false"):
        load_pretrained(tmp_path)
    expected = their_logits(tmp_path)
    copy_config(bases, name, tmp_path, tie_word_embeddings=False)
    model, params = load_pretrained(tmp_path)
    check_parity(run(model, params), expected, run(model, change(params)), 1e-4)


@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM"])
def test_a_language_model_that_is_no_decoder_is_a_masked_one(name, tmp_path):
    config = transformers.BertConfig if name.startswith("Bert") else transformers.RobertaConfig
    getattr(transformers, name)(config(**ENCODER)).save_pretrained(tmp_path)
    check(tmp_path)


def test_activations_are_transformers():
    assert set(activations.ACT2CLS) == set(ACTIVATIONS)
    x = np.linspace(-14, 14, 201, dtype=np.float32)
    ours = jax.jit(lambda x: {name: activation(x) for name, activation in FIXED.items()})
    theirs = {name: activations.ACT2FN[name](torch.tensor(x)).numpy() for name in FIXED}
    check_parity(ours(x), theirs, ours(x * 1.01), 1e-5)


LLAMA = {
    "vocab_size": 97,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning:transformers")  # xielu's kernel for GPUs is not there
@pytest.mark.parametrize("name", ["prelu", "xielu"])
@pytest.mark.parametrize("model", ["GPT2LMHeadModel", "BertForMaskedLM", "LlamaForCausalLM"])
def test_activations_that_learn_are_read_and_written(model, name, tmp_path):
    config, sizes, field = {
        "GPT2LMHeadModel": (transformers.GPT2Config, GPT2, "activation_function"),
        "BertForMaskedLM": (transformers.BertConfig, ENCODER, "hidden_act"),
        "LlamaForCausalLM": (transformers.LlamaConfig, LLAMA, "hidden_act"),
    }[model]
    theirs = getattr(transformers, model)(config(**sizes, **{field: name}))
    with torch.no_grad():
        for path, parameter in theirs.named_parameters():
            if ".act" in path or "act_fn" in path:
                parameter += torch.rand_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    check(tmp_path / "theirs")
    save_pretrained(tmp_path / "ours", *load_pretrained(tmp_path / "theirs"))
    np.testing.assert_allclose(their_logits(tmp_path / "ours"), their_logits(tmp_path / "theirs"), atol=1e-6)
