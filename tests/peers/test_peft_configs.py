"""Against Hugging Face PEFT, live: the kinds of configs that PEFT's own tests run, which no other file here tries."""

import copy
from pathlib import Path

import jax
import numpy as np
import pytest

from hut_jax import Full, UserError, load_pretrained
from hut_jax.interop import load_peft, save_peft
from hut_jax.interop.methods.registry import METHODS
from tests.peers.torch_models import in_double, shaken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning"),
]

TOLERANCE = 1e-5  # of the logits' size
IDS = np.random.default_rng(0).integers(3, 30, (2, 7))
ENCODER = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER |= {"intermediate_size": 24, "max_position_embeddings": 20, "num_labels": 3}
GPT2 = {"vocab_size": 30, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0}
CLASSES = {"gpt2": "GPT2LMHeadModel", "roberta": "RobertaForSequenceClassification", "bert": "BertModel"}
CLASSES |= {"mlm": "RobertaForMaskedLM"}
TASKS = {"gpt2": "CAUSAL_LM", "roberta": "SEQ_CLS", "bert": "FEATURE_EXTRACTION"}
ALL = ("gpt2", "roberta", "bert")
ENCODERS = ("roberta", "bert")

IN = {"gpt2": "c_attn", "roberta": "query", "bert": "query", "mlm": "query"}
UP = {"gpt2": "c_fc", "roberta": "intermediate.dense", "bert": "intermediate.dense", "mlm": "intermediate.dense"}
SAVED = {"gpt2": "ln_f", "roberta": "classifier", "bert": "pooler", "mlm": "lm_head.layer_norm"}
LIST = {"gpt2": "h", "roberta": "layer", "bert": "layer", "mlm": "layer"}
TABLE = {"gpt2": "wte", "roberta": "word_embeddings", "bert": "word_embeddings", "mlm": "word_embeddings"}
HEAD = {"gpt2": "lm_head", "mlm": "lm_head.decoder"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A small base: PEFT's side, the model and parameters here, our logits of parameters, and its logits."""
    made = {}

    def base(kind):
        if kind not in made:
            torch.manual_seed(0)
            name, folder = getattr(transformers, CLASSES[kind]), tmp_path_factory.mktemp(kind)
            theirs = shaken(name(name.config_class(**(GPT2 if kind == "gpt2" else ENCODER))))
            theirs.save_pretrained(folder)
            model, params = load_pretrained(folder)
            ours = jax.jit(lambda params: model.apply({"params": params}, IDS))
            made[kind] = (name.from_pretrained(folder).eval(), model, params, ours, in_double(theirs, IDS))
        return made[kind]

    return base


def lora(kind, **more):
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": [IN[kind]]} | more)


def beside(kind, **more):
    return {"target_modules": [IN[kind]], "modules_to_save": [SAVED[kind]]} | more


LOADED = {
    "lora's own targets": (ALL, lambda kind: peft.LoraConfig()),
    "adalora's own targets": (ALL, lambda kind: peft.AdaLoraConfig(total_step=1)),
    "hira's own targets": (ENCODERS, lambda kind: peft.HiraConfig(r=2)),
    "targets by a pattern": (ALL, lambda kind: lora(kind, target_modules=rf".*\.1\..*({IN[kind]}|{UP[kind]})")),
    "one layer": (ALL, lambda kind: lora(kind, layers_to_transform=[1], layers_pattern=LIST[kind])),
    "all but one layer": (ALL, lambda kind: lora(kind, exclude_modules=rf".*\.0\..*{IN[kind]}")),
    "ranks by whole names": (
        ALL,
        lambda kind: lora(
            kind, rank_pattern={rf"^.*\.1\..*{IN[kind]}": 3}, alpha_pattern={rf".*{LIST[kind]}\.0\..*": 7}
        ),
    ),
    "a gaussian start": (("gpt2",), lambda kind: lora(kind, init_lora_weights="Gaussian")),
    "an orthogonal start": (("roberta",), lambda kind: lora(kind, init_lora_weights="orthogonal")),
    "mica": (("bert",), lambda kind: lora(kind, init_lora_weights="mica")),
    "lora's dropout": (("gpt2",), lambda kind: lora(kind, lora_dropout=0.1)),
    "hira's dropout": (("roberta",), lambda kind: peft.HiraConfig(r=2, hira_dropout=0.1, target_modules=[IN[kind]])),
    "loha's dropout": (
        ("bert",),
        lambda kind: peft.LoHaConfig(r=2, rank_dropout=0.5, module_dropout=0.1, target_modules=[IN[kind]]),
    ),
    "a module beside adalora": (ALL, lambda kind: peft.AdaLoraConfig(total_step=1, **beside(kind))),
    "a module beside hira": (ALL, lambda kind: peft.HiraConfig(r=2, **beside(kind))),
    "a module beside loha": (ENCODERS, lambda kind: peft.LoHaConfig(r=2, **beside(kind))),
    "a module beside ia3": (ALL, lambda kind: peft.IA3Config(feedforward_modules=[IN[kind]], **beside(kind))),
    "a module beside norms": (
        ("gpt2", "bert"),
        lambda kind: peft.LNTuningConfig(
            **beside(kind, target_modules=["ln_1" if kind == "gpt2" else "attention.output.LayerNorm"])
        ),
    ),
    "ia3 by patterns": (
        ALL,
        lambda kind: peft.IA3Config(target_modules=rf".*({IN[kind]}|{UP[kind]})", feedforward_modules=rf".*{UP[kind]}"),
    ),
    "a parameter beside a module": (ENCODERS, lambda kind: lora(kind, target_parameters=[f"{UP[kind]}.weight"])),
    "tokens beside all-linear": (
        (*ALL, "mlm"),
        lambda kind: lora(kind, target_modules="all-linear", trainable_token_indices={TABLE[kind]: [3, 5]}),
    ),
    "tokens and a module": (
        ALL,
        lambda kind: lora(kind, trainable_token_indices=[3, 5], modules_to_save=[SAVED[kind]]),
    ),
    "rows of a dense module": (
        ENCODERS,
        lambda kind: peft.TrainableTokensConfig(token_indices=[1, 4], target_modules=[UP[kind]]),
    ),
    "whole dense modules": (ALL, lambda kind: peft.LNTuningConfig(target_modules=[IN[kind], UP[kind]])),
    "a whole table": ((*ALL, "mlm"), lambda kind: peft.LNTuningConfig(target_modules=[TABLE[kind]])),
    "a whole head": (("gpt2", "mlm"), lambda kind: peft.LNTuningConfig(target_modules=[HEAD[kind]])),
    "a norm and a dense module": (
        ("gpt2", "mlm"),
        lambda kind: peft.LNTuningConfig(target_modules=[UP[kind], "ln_f" if kind == "gpt2" else "lm_head.layer_norm"]),
    ),
}


def assert_runs_here_and_goes_back(base, theirs, saved, tmp_path, **options):
    """The adapter in the folder `saved` gives PEFT's logits here, and in PEFT and here once we have written it."""
    plain, model, params, ours, before = base

    def close(logits):
        assert np.abs(np.asarray(logits) - expected).max() < TOLERANCE * np.abs(expected).max()

    expected = in_double(theirs, IDS, changed=True)
    assert np.abs(expected - before).max() > 1000 * TOLERANCE * np.abs(expected).max()
    adapter, factors = load_peft(saved, model, params, **options)
    close(ours(adapter.merge(params, factors)))
    save_peft(tmp_path / "ours", adapter, factors, model, params)
    close(in_double(peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "ours"), IDS, changed=True))
    back, factors_back = load_peft(tmp_path / "ours", model, params)
    close(ours(back.merge(params, factors_back)))
    return adapter


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (kinds, _) in LOADED.items() for kind in kinds])
def test_a_config_of_pefts_own_tests_loads_and_goes_back(bases, tmp_path, name, kind):
    torch.manual_seed(1)
    config = LOADED[name][1](kind)
    config.task_type = TASKS.get(kind)
    theirs = shaken(peft.get_peft_model(copy.deepcopy(bases(kind)[0]), config), by=0.5)
    theirs.save_pretrained(tmp_path / "theirs")
    adapter = assert_runs_here_and_goes_back(bases(kind), theirs, tmp_path / "theirs", tmp_path)
    if isinstance(config, peft.LNTuningConfig):
        assert (adapter.transform == Full()) == (name != "a module beside norms")


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("combination", ["cat", "svd", "linear"])
def test_adapters_that_peft_combines_are_adapters(bases, tmp_path, kind, combination):
    torch.manual_seed(1)
    theirs = peft.get_peft_model(copy.deepcopy(bases(kind)[0]), lora(kind, init_lora_weights=False), "one")
    other = lora(kind, init_lora_weights=False, lora_alpha=5, r=2 if combination == "linear" else 3)
    theirs.add_adapter("two", other)
    theirs.add_weighted_adapter(["one", "two"], [0.7, 0.4], "both", combination_type=combination)
    theirs.set_adapter("both")
    theirs.save_pretrained(tmp_path / "theirs", selected_adapters=["both"])
    assert_runs_here_and_goes_back(bases(kind), theirs, tmp_path / "theirs", tmp_path, subfolder="both")


@pytest.mark.parametrize("kind", ENCODERS)
def test_another_method_that_peft_turns_into_lora_is_an_adapter(bases, tmp_path, kind):
    torch.manual_seed(1)
    plain = bases(kind)[0]
    lokr = peft.LoKrConfig(r=2, target_modules=[IN[kind], UP[kind]], init_weights=False)
    peft.save_as_lora(tmp_path / "theirs", peft.get_peft_model(copy.deepcopy(plain), lokr), rank=0.9)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "theirs")
    assert_runs_here_and_goes_back(bases(kind), theirs, tmp_path / "theirs", tmp_path)


@pytest.mark.parametrize("kind", ALL)
def test_pissa_that_peft_turns_into_lora_is_an_adapter_of_the_base(bases, tmp_path, kind):
    torch.manual_seed(1)
    theirs = peft.get_peft_model(copy.deepcopy(bases(kind)[0]), lora(kind, init_lora_weights="pissa"))
    start = theirs.peft_config["default"]
    start.init_lora_weights = True  # as PEFT asks for
    theirs.save_pretrained(tmp_path / "start")
    start.init_lora_weights = "pissa"
    shaken(theirs, by=0.5).save_pretrained(
        tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    assert_runs_here_and_goes_back(bases(kind), theirs, tmp_path / "theirs", tmp_path)


DOCS = Path(__file__).parents[2] / "docs" / "peft.md"
REFUSED = {
    "`use_qalora`": (lambda: peft.LoraConfig(use_qalora=True), r"'use_qalora' is set.*; its layers are quantised"),
    "`arrow_config`": (lambda: peft.LoraConfig(arrow_config=peft.ArrowConfig()), "factors are chosen for each token"),
    "`alora_invocation_tokens`": (
        lambda: peft.LoraConfig(alora_invocation_tokens=[1], task_type="CAUSAL_LM"),
        "after an invocation",
    ),
    "`layer_replication`": (lambda: peft.LoraConfig(layer_replication=[(0, 2), (1, 2)]), "which is another model"),
    "KaSA": (lambda: peft.LoraConfig(kasa_config=peft.KasaConfig()), r"merge it in PEFT, merge_and_unload\(\)"),
    "PiSSA": (lambda: peft.LoraConfig(init_lora_weights="pissa"), "save the changed base in PEFT"),
    "OLoRA": (lambda: peft.LoraConfig(init_lora_weights="OLoRA"), "save the changed base in PEFT"),
    "CorDA": (lambda: peft.LoraConfig(init_lora_weights="corda"), "save the changed base where you train"),
    "LoRA-GA": (lambda: peft.LoraConfig(init_lora_weights="lora_ga"), "save the changed base where you train"),
    "labels of tokens": (lambda: peft.IA3Config(task_type="TOKEN_CLS"), "the adapter is for labels of tokens"),
    "answers in a text": (lambda: peft.LoraConfig(task_type="QUESTION_ANS"), "the adapter is for answers in a text"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*CorDA:UserWarning", "ignore:.*`init_lora_weights` is 'lora_ga':UserWarning")
def test_a_config_that_the_docs_say_is_refused_is(bases, tmp_path, name):
    config, message = REFUSED[name]
    assert name in DOCS.read_text()
    config().save_pretrained(tmp_path)
    _, model, params, *_ = bases("roberta")
    with pytest.raises(UserError, match=message) as caught:
        load_peft(tmp_path, model, params)
    assert "\n" not in str(caught.value)


def test_all_other_methods_of_peft_are_refused_by_name(bases, tmp_path):
    others = {str(kind.value) for kind in peft.PeftType} - METHODS.keys()
    assert len(others) > 30
    _, model, params, *_ = bases("roberta")
    for kind in others:
        peft.PeftConfig(peft_type=kind).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=f"peft_type '{kind}' is not supported; valid: 'ADALORA', 'HIRA', "):
            load_peft(tmp_path, model, params)
