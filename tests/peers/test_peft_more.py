"""Against Hugging Face PEFT, live: tied embeddings and heads, embeddings, biases, single tokens, variants of LoRA."""

import json

import jax
import numpy as np
import pytest

from hut_jax import UserError, load_pretrained, save_pretrained
from hut_jax.interop import load_peft, save_peft
from tests.peers.torch_models import in_double, shaken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    # PEFT takes the bias of its own lora_B for a shard of a matrix.
    pytest.mark.filterwarnings("ignore:Adapter 'default'. . LoRA tensor:peft.utils.warning.PeftWarning"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match any:RuntimeWarning"),
]

TOLERANCE = 1e-5  # of the logits' size
ENCODER = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER |= {"intermediate_size": 24, "max_position_embeddings": 20, "hidden_dropout_prob": 0.0}
IDS = np.random.default_rng(0).integers(3, 30, (3, 9))
LLAMA = ENCODER | {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True, "bos_token_id": 0}
ENCODERS = ("roberta-mlm", "bert-mlm", "roberta")
TARGET = {"llama": ["q_proj"], "gpt2": ["c_attn"]} | {kind: ["query"] for kind in ENCODERS}
HEAD = {"llama": "lm_head", "gpt2": "lm_head", "roberta-mlm": "decoder", "bert-mlm": "decoder"}
TABLE = {"llama": "embed_tokens", "gpt2": "wte"} | dict.fromkeys(ENCODERS, "word_embeddings")
BLOCK = {"gpt2": "lm_head", "roberta-mlm": "lm_head", "bert-mlm": "cls"}
CLASSES = {"gpt2": "GPT2LMHeadModel", "roberta-mlm": "RobertaForMaskedLM", "bert-mlm": "BertForMaskedLM"}
CLASSES |= {"roberta": "RobertaModel", "llama": "LlamaForCausalLM"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}

    def base(kind):
        if kind not in made:
            torch.manual_seed(0)
            if kind == "gpt2":
                config = transformers.GPT2Config(vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2)
            elif kind == "llama":
                config = transformers.LlamaConfig(**LLAMA)
            else:
                config = (transformers.BertConfig if "bert-" in kind[:5] else transformers.RobertaConfig)(**ENCODER)
            config.bos_token_id, config.eos_token_id = 0, 1
            folder = tmp_path_factory.mktemp(kind)
            shaken(getattr(transformers, CLASSES[kind])(config)).save_pretrained(folder)
            model, params = load_pretrained(folder)
            made[kind] = (folder, model, params, jax.jit(lambda params: model.apply({"params": params}, IDS)))
        return made[kind]

    return base


def again(kind, folder):
    return getattr(transformers, CLASSES[kind]).from_pretrained(folder).eval()


def theirs_of(model):
    return in_double(model, IDS, changed=True)


def close(ours, theirs):
    assert np.abs(np.asarray(ours) - theirs).max() < TOLERANCE * np.abs(theirs).max()


def lora(kind, **more):
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": TARGET[kind]} | more)


def with_(kind, *names):
    return {"target_modules": [*TARGET[kind], *names]}


def saving(*names, **more):
    return {"modules_to_save": list(names)} | more


TIED = {
    "factors on the head": lambda kind: lora(kind, **with_(kind, HEAD[kind])),
    "dora on the head": lambda kind: lora(kind, use_dora=True, **with_(kind, HEAD[kind])),
    "hira on the head": lambda kind: peft.HiraConfig(r=2, **with_(kind, HEAD[kind])),
    "ia3 on the head": lambda kind: peft.IA3Config(feedforward_modules=[], **with_(kind, HEAD[kind])),
    "factors on the table": lambda kind: lora(kind, **with_(kind, TABLE[kind])),
    "dora on the table": lambda kind: lora(kind, use_dora=True, **with_(kind, TABLE[kind])),
    "hira on the table": lambda kind: peft.HiraConfig(r=2, **with_(kind, TABLE[kind])),
    "factors on both": lambda kind: lora(kind, **with_(kind, TABLE[kind], HEAD[kind])),
    "factors tied": lambda kind: lora(kind, ensure_weight_tying=True, **with_(kind, TABLE[kind])),
    "factors of the head tied": lambda kind: lora(kind, ensure_weight_tying=True, **with_(kind, HEAD[kind])),
    "the table saved": lambda kind: lora(kind, **saving(TABLE[kind])),
    "the head saved": lambda kind: lora(kind, **saving(HEAD[kind])),
    "the head's block saved": lambda kind: lora(kind, **saving(BLOCK[kind])),
    "both saved": lambda kind: lora(kind, **saving(TABLE[kind], HEAD[kind])),
    "the table saved, tied": lambda kind: lora(kind, **saving(TABLE[kind], ensure_weight_tying=True)),
    "the head saved, tied": lambda kind: lora(kind, **saving(HEAD[kind], ensure_weight_tying=True)),
    "both saved, tied": lambda kind: lora(kind, **saving(TABLE[kind], HEAD[kind], ensure_weight_tying=True)),
    "tokens": lambda kind: lora(kind, trainable_token_indices=[3, 5]),
    "tokens of the head": lambda kind: lora(kind, trainable_token_indices={HEAD[kind]: [4, 2]}),
    "the same tokens of both": lambda kind: lora(
        kind, trainable_token_indices={TABLE[kind]: [3, 5], HEAD[kind]: [3, 5]}
    ),
    "other tokens of both": lambda kind: lora(kind, trainable_token_indices={TABLE[kind]: [3, 5], HEAD[kind]: [7]}),
    "tokens alone": lambda kind: peft.TrainableTokensConfig(token_indices=[3, 5]),
    "tokens of the head alone": lambda kind: peft.TrainableTokensConfig(
        token_indices=[3, 5], target_modules=[HEAD[kind]]
    ),
    "biases beside": lambda kind: lora(kind, bias="lora_only"),
    "all biases": lambda kind: lora(kind, bias="all"),
    "bias of B": lambda kind: lora(kind, lora_bias=True, use_rslora=True),
    "bias of B and all biases": lambda kind: lora(kind, lora_bias=True, bias="all"),
    "positions": lambda kind: lora(kind, **with_(kind, {"gpt2": "wpe"}.get(kind, "position_embeddings"))),
}
ONE = {
    "adalora": lambda kind: peft.AdaLoraConfig(
        init_r=3, target_r=2, total_step=10, lora_alpha=5, target_modules=TARGET[kind]
    ),
    "velora": lambda kind: lora(kind, velora_config=peft.VeloraConfig(num_groups=4)),
    "monteclora": lambda kind: lora(kind, monteclora_config=peft.MontecloraConfig()),
    "block-diagonal": lambda kind: lora(
        kind,
        r=4,
        use_bdlora=peft.tuners.lora.BdLoraConfig(
            target_modules_bd_a=["query"], target_modules_bd_b=["value"], nblocks=2
        ),
        target_modules=["query", "value"],
    ),
    "all-linear": lambda kind: lora(kind, target_modules="all-linear"),
    "parameters": lambda kind: lora(kind, target_modules=[], target_parameters=["query.weight", "key.weight"]),
    "parameters with patterns": lambda kind: lora(
        kind,
        target_modules=[],
        target_parameters=["query.weight", "key.weight"],
        rank_pattern={"query": 3, r".*\.1\..*query.weight": 4},
        alpha_pattern={"query.weight": 7, "key": 9},
    ),
    "tokens": lambda kind: lora(kind, trainable_token_indices=[3, 5]),
    "embedding": lambda kind: lora(kind, **with_(kind, TABLE[kind])),
}
CASES = [(kind, name) for name in TIED for kind in ("gpt2", "roberta-mlm")]
CASES += [("bert-mlm", name) for name in ("factors on both", "the head's block saved", "tokens", "all biases")]
CASES += [("roberta", name) for name in ONE]
# PEFT knows `embed_tokens` by its name, and keeps it tied where that is asked for.
NAMED = ("factors on both", "factors tied", "the table saved, tied", "the head saved", "dora on the table", "tokens")
CASES += [("llama", name) for name in NAMED]
CASES += [("gpt2", "parameters")]


def config_of(kind, name):
    if (kind, name) == ("gpt2", "parameters"):
        return lora(kind, target_modules=[], target_parameters=["c_attn.weight", "c_fc.weight"])
    config = (ONE if kind == "roberta" else TIED)[name](kind)
    config.task_type = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "roberta": "FEATURE_EXTRACTION"}.get(kind)
    return config


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_peft_saved_runs_here_merges_and_goes_back(bases, tmp_path, kind, name):
    folder, model, params, plain = bases(kind)
    torch.manual_seed(1)
    theirs = shaken(peft.get_peft_model(again(kind, folder), config_of(kind, name)), by=0.5)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = theirs_of(theirs)
    assert np.abs(expected - plain(params)).max() > 1000 * TOLERANCE * np.abs(expected).max()
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    close(jax.jit(lambda factors: adapter.apply(model, params, factors, IDS))(factors), expected)
    merged = adapter.merge(params, factors)
    close(plain(merged), expected)
    save_pretrained(tmp_path / "merged", model, merged)
    close(theirs_of(again(kind, tmp_path / "merged")), expected)
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    close(theirs_of(peft.PeftModel.from_pretrained(again(kind, folder), tmp_path / "ours").eval()), expected)
    back, factors_back = load_peft(tmp_path / "ours", model, params)
    close(plain(back.merge(params, factors_back)), expected)


def test_an_embedding_that_was_resized_is_read_though_modules_to_save_is_null(bases, tmp_path):
    folder, *_ = bases("gpt2")
    theirs = again("gpt2", folder)
    theirs.resize_token_embeddings(33)
    theirs = shaken(peft.get_peft_model(theirs, lora("gpt2", task_type="CAUSAL_LM")))
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=True)
    assert json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())["modules_to_save"] is None
    with pytest.raises(UserError, match=r"load a base with as many: in transformers, resize_token_embeddings\(33\)"):
        load_peft(tmp_path / "theirs", *bases("gpt2")[1:3])
    afresh = again("gpt2", folder)
    afresh.resize_token_embeddings(33, mean_resizing=False)
    afresh.save_pretrained(tmp_path / "base")
    model, params = load_pretrained(tmp_path / "base")
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    assert adapter.also_train == ("^token_embedding$",)
    close(jax.jit(lambda factors: adapter.apply(model, params, factors, IDS))(factors), theirs_of(theirs))
