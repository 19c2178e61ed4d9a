"""Against Hugging Face PEFT, live: its adapters run here, and ours there, to the same logits."""

import json
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import (
    HUT,
    IA3,
    SSF,
    Adapter,
    BitFit,
    DoRA,
    Full,
    HiRA,
    LayerNorm,
    LoHa,
    LoRA,
    LoRAPlus,
    UserError,
    load_pretrained,
    save_pretrained,
)
from hut_jax.core.trees import flatten
from hut_jax.interop import load_peft, save_peft
from hut_jax.models.compute import Compute
from tests.parity import WITHOUT_YNNPACK
from tests.peers.torch_models import in_double, shaken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*LayerNorm:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TOLERANCE = 1e-5  # of the logits' size
KINDS = ["gpt2", "roberta", "bert"]
ENCODER = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER |= {"intermediate_size": 24, "max_position_embeddings": 20, "num_labels": 3}
RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(3, 30, (3, 9))


def make(kind):
    """A small model of theirs with random parameters of real size."""
    torch.manual_seed(0)
    if kind.startswith("gpt2"):
        config = transformers.GPT2Config(
            vocab_size=30, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
        )
        model = transformers.GPT2LMHeadModel(config)
    elif kind == "roberta-mlm":
        model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**ENCODER, tie_word_embeddings=False))
    elif kind == "roberta":
        model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**ENCODER))
    else:
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**ENCODER))
    return shaken(model)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Each model's folder, and the model and parameters here."""
    root = tmp_path_factory.mktemp("bases")
    loaded = {}

    def base(kind):
        if kind not in loaded:
            make(kind).save_pretrained(root / kind)
            loaded[kind] = (root / kind, *load_pretrained(root / kind))
        return loaded[kind]

    return base


def again(folder):
    """The base as transformers loads it."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, architecture).from_pretrained(folder).eval()


def theirs_of(model):
    return in_double(model, IDS)


def ours_of(model, params, adapter=None, factors=None):
    if adapter is None:
        return jax.jit(lambda params: model.apply({"params": params}, IDS), compiler_options=WITHOUT_YNNPACK)(params)

    def apply(params, factors):
        return adapter.apply(model, params, factors, IDS)

    return jax.jit(apply, compiler_options=WITHOUT_YNNPACK)(params, factors)


def close(ours, theirs, tolerance=TOLERANCE):
    assert np.abs(np.asarray(ours) - theirs).max() < tolerance * np.abs(theirs).max()


@lru_cache
def base_of(folder):
    """Their logits without an adapter."""
    return theirs_of(again(folder))


def moved(logits, folder):
    """Whether the adapter does far more to the logits than the tolerance hides."""
    return np.abs(logits - base_of(folder)).max() > 1000 * TOLERANCE * np.abs(logits).max()


def task(kind):
    return {"gpt2": "CAUSAL_LM", "roberta": "SEQ_CLS", "bert": "SEQ_CLS"}.get(kind)


ATTENTION = {"gpt2": ["c_attn"], "roberta": ["query", "value"], "bert": ["query", "value"], "roberta-mlm": ["query"]}
MLP = {"gpt2": ["c_fc"], "roberta": ["intermediate.dense"], "bert": ["intermediate.dense"]}
FIRST = {"gpt2": "h.0.attn.c_attn", "roberta": "layer.0.attention.self.query", "bert": "layer.0.attention.self.query"}
NORMS = {"gpt2": ["ln_1", "ln_f"], "roberta": ["LayerNorm"], "bert": ["attention.output.LayerNorm"]}
HEAD = {"gpt2": ["ln_f", "h.1.mlp.c_fc"], "roberta": None, "bert": ["pooler.dense"]}

THEIRS = {
    "lora": lambda kind: peft.LoraConfig(r=3, lora_alpha=5, target_modules=[*ATTENTION[kind], *MLP[kind]]),
    "lora patterns": lambda kind: peft.LoraConfig(
        r=2,
        target_modules=ATTENTION[kind],
        rank_pattern={FIRST[kind]: 5},
        alpha_pattern={FIRST[kind]: 3},
    ),
    "rslora": lambda kind: peft.LoraConfig(
        r=3, lora_alpha=4, use_rslora=True, target_modules=ATTENTION[kind], rank_pattern={FIRST[kind]: 2}
    ),
    "dora": lambda kind: peft.LoraConfig(r=2, use_dora=True, target_modules=[*ATTENTION[kind], *MLP[kind]]),
    "hira": lambda kind: peft.HiraConfig(r=2, target_modules=[*ATTENTION[kind], *MLP[kind]]),
    "ia3": lambda kind: peft.IA3Config(),
    "ia3 without feed-forward": lambda kind: peft.IA3Config(
        target_modules=[*ATTENTION[kind], *MLP[kind]], feedforward_modules=MLP[kind]
    ),
    "loha": lambda kind: peft.LoHaConfig(
        r=2, alpha=3, target_modules=[*ATTENTION[kind], *MLP[kind]], alpha_pattern={FIRST[kind]: 5}
    ),
    "norms": lambda kind: peft.LNTuningConfig(target_modules=NORMS[kind]),
    "whole modules": lambda kind: peft.LoraConfig(r=2, target_modules=ATTENTION[kind], modules_to_save=HEAD[kind]),
}
CASES = [(kind, name) for name in THEIRS for kind in KINDS if (kind, name) != ("gpt2", "loha")]  # PEFT has none there


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_peft_saved_runs_here_and_goes_back(bases, tmp_path, kind, name):
    folder, model, params = bases(kind)
    config = THEIRS[name](kind)
    config.task_type = task(kind)
    theirs = shaken(peft.get_peft_model(again(folder), config), by=0.5)
    theirs.save_pretrained(tmp_path / "theirs")
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    expected = theirs_of(theirs)
    assert moved(expected, folder)
    close(ours_of(model, params, adapter, factors), expected)
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    close(theirs_of(peft.PeftModel.from_pretrained(again(folder), tmp_path / "ours").eval()), expected)
    assert_same_tensors(tmp_path / "theirs", tmp_path / "ours")


def assert_same_tensors(one, other):
    first, second = (safetensors(folder) for folder in (one, other))
    assert first.keys() == second.keys()
    alpha = [json.loads((folder / "adapter_config.json").read_text()).get("alpha_pattern") for folder in (one, other)]
    if not any(alpha):
        for name, tensor in first.items():
            np.testing.assert_allclose(second[name], tensor, rtol=1e-6, atol=2e-7, err_msg=name)


def safetensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")


QV = "attention/(query|value)$"
OURS = {
    "lora": Adapter(LoRA(rank=2, alpha=3.0), QV, ranks={"layer_0/": 3}),
    "lora on everything": Adapter(LoRA(rank=2, rs=True), r"attention/(query|key|value|out)$|mlp/(up|down)$"),
    "lora on one": Adapter(LoRA(rank=2), "layer_1/attention/key$"),
    "lora of uneven ranks": Adapter(LoRA(rank=2), QV, ranks={"value": 4}),
    "lora+": Adapter(LoRAPlus(rank=2, alpha=3.0), QV),  # alpha = 16 makes fp32 itself miss the tolerance
    "dora": Adapter(DoRA(rank=2), QV),
    "hira": Adapter(HiRA(rank=2), QV),
    "hira of uneven ranks": Adapter(HiRA(rank=2), r"attention/(query|value)$|mlp/up$", ranks={"mlp": 3}),
    "loha": Adapter(LoHa(rank=2, alpha=3.0), QV),
    "ia3": Adapter(IA3()),
    "ia3 of outputs": Adapter(IA3(feedforward=""), "value$|mlp/"),
    "norms": Adapter(LayerNorm(), "layer_1/.*norm"),
    "norms' scales": Adapter(LayerNorm(), "norm/scale"),
    "everything in full": Adapter(Full()),
    "whole modules": Adapter(LoRA(rank=2), QV, also_train=["mlp/up", "attention_norm"]),
    "embedding": Adapter(LoRA(rank=2), QV, also_train="token_embedding"),
}


def random_factors(adapter, params):
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    return jax.tree.map(lambda leaf: jnp.asarray(np.float32(0.5 * random.standard_normal(leaf.shape))), shapes)


def same_function(adapter, other, params):
    """Whether both compute the same of the same factors."""
    one, two = ([(site.path, site.transform, site.layout) for site in its.sites(params)] for its in (adapter, other))
    return one == two


def names_single_layers(adapter):
    return "layer_" in str((adapter.targets, adapter.ranks))


@pytest.mark.parametrize(
    ("kind", "name", "scan_layers"),
    [
        (kind, name, scan)
        for kind in ("gpt2", "roberta")
        for name in OURS
        for scan in (False, True)
        if not scan
        or (not names_single_layers(OURS[name]) and (kind == "roberta" or name in ("lora", "whole modules")))
    ],
)
def test_what_we_saved_runs_there_and_comes_back(bases, tmp_path, kind, name, scan_layers):
    folder, model, params = bases(kind)
    adapter = OURS[name]
    if scan_layers:
        model, params = load_pretrained(folder, compute=Compute(scan_layers=True))
    factors = random_factors(adapter, params)
    if (kind, name) == ("gpt2", "loha"):
        with pytest.raises(UserError, match=r"is a Conv1D, for which PEFT has no LoHa; export the merged model"):
            save_peft(tmp_path, adapter, factors, model, params)
        return
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    theirs = peft.PeftModel.from_pretrained(again(folder), tmp_path / "ours").eval()
    expected = theirs_of(theirs)
    assert moved(expected, folder)
    close(ours_of(model, params, adapter, factors), expected)
    back, factors_back = load_peft(tmp_path / "ours", model, params)
    if name in ("norms' scales", "hira of uneven ranks"):  # PEFT's norms are whole, its HiRA has one rank
        close(ours_of(model, params, back, factors_back), expected)
        return
    ours, loaded = flatten(factors), flatten(factors_back)
    assert loaded.keys() == ours.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(loaded[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path)
    if not same_function(adapter, back, params):
        close(ours_of(model, params, back, factors_back), expected)


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "bert"])
@pytest.mark.parametrize(
    "transform",
    [HUT(rank=2), LoRA(), LoRAPlus(), DoRA(), HiRA(), LoHa(), IA3(), SSF(), BitFit(), LayerNorm(), Full()],
    ids=lambda transform: transform.name,
)
def test_a_merged_model_runs_in_transformers(bases, tmp_path, kind, transform):
    folder, model, params = bases(kind)
    adapter = Adapter(transform)
    factors = random_factors(adapter, params)

    @jax.jit
    def run(params, factors):
        return adapter.apply(model, params, factors, IDS), adapter.merge(params, factors)

    ours, merged = run(params, factors)
    save_pretrained(tmp_path, model, merged)
    expected = theirs_of(again(tmp_path))
    assert moved(expected, folder)
    close(ours, expected)


def test_a_head_and_a_tied_embedding_trained_there(bases, tmp_path):
    """PEFT copies the embedding and the head tied to it; where both are saved and equal, the tie holds."""
    folder, model, params = bases("gpt2")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["wte", "lm_head"], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(again(folder), config)
    embedding = theirs.base_model.model.transformer.wte.modules_to_save["default"]
    theirs.base_model.model.lm_head.modules_to_save["default"].weight = embedding.weight
    shaken(theirs)
    theirs.save_pretrained(tmp_path / "tied")
    adapter, factors = load_peft(tmp_path / "tied", model, params)
    assert adapter.also_train == ("^token_embedding$",)
    expected = theirs_of(theirs)
    assert moved(expected, folder)
    close(ours_of(model, params, adapter, factors), expected)


def test_a_masked_lm_head_trained_there(bases, tmp_path):
    folder, model, params = bases("roberta-mlm")
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["lm_head"])
    theirs = shaken(peft.get_peft_model(again(folder), config))
    theirs.save_pretrained(tmp_path / "theirs")
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    expected = theirs_of(theirs)
    assert moved(expected, folder)
    close(ours_of(model, params, adapter, factors), expected)
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    close(theirs_of(peft.PeftModel.from_pretrained(again(folder), tmp_path / "ours").eval()), expected)


def test_a_tied_masked_lm_head_of_ours_runs_there(tmp_path):
    shaken(transformers.RobertaForMaskedLM(transformers.RobertaConfig(**ENCODER))).save_pretrained(tmp_path / "base")
    model, params = load_pretrained(tmp_path / "base")
    adapter = Adapter(LoRA(rank=2), QV, also_train="^mlm")
    factors = random_factors(adapter, params)
    save_peft(tmp_path / "ours", adapter, factors, model, params)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]
    expected = theirs_of(peft.PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "ours").eval())
    assert moved(expected, tmp_path / "base")
    close(ours_of(model, params, adapter, factors), expected)
    assert flatten(load_peft(tmp_path / "ours", model, params)[1]).keys() == flatten(factors).keys()


def test_an_untied_head_is_a_target(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=16, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=False, bos_token_id=0
    )
    shaken(transformers.GPT2LMHeadModel(config)).save_pretrained(tmp_path / "base")
    model, params = load_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "lm_head"], task_type="CAUSAL_LM")
    theirs = shaken(peft.get_peft_model(again(tmp_path / "base"), config))
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=True)  # the base's own beside the factors
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    assert "^lm_head$" in adapter.targets
    expected = theirs_of(theirs)
    assert moved(expected, tmp_path / "base")
    close(ours_of(model, params, adapter, factors), expected)
    save_peft(tmp_path / "ours", adapter, factors, model, params)
    close(theirs_of(peft.PeftModel.from_pretrained(again(tmp_path / "base"), tmp_path / "ours").eval()), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: peft.LoraConfig(target_modules=["query"], init_lora_weights="pissa"), "changes the base"),
        (
            lambda: peft.VeraConfig(target_modules=["query"]),
            "peft_type 'VERA' is not supported; valid: 'ADALORA', 'HIRA', 'IA3', 'LN_TUNING', 'LOHA'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Adapter 'default'. 2 LoRA tensor.s. have invalid shape")
def test_what_has_no_like_here_is_refused(bases, tmp_path, config, message):
    folder, model, params = bases("roberta")
    peft.get_peft_model(again(folder), config()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_peft(tmp_path, model, params)
    assert "\n" not in str(caught.value)
