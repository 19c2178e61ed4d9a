"""Against Hugging Face PEFT on decoders, live: its adapters run here, and ours there, to the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, IA3, SSF, Adapter, DoRA, HiRA, LayerNorm, LoRA, UserError, load_pretrained, save_pretrained
from hut_jax.interop import load_peft, save_peft
from hut_jax.models.compute import Compute
from tests.peers.torch_models import in_double, shaken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*RMSNorm:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TOLERANCE = 1e-5  # of the logits' size
KINDS = ["llama", "phi3", "qwen2"]  # separate kernels, fused ones, biases of query, key and value
IDS = np.random.default_rng(0).integers(3, 30, (3, 9))
SIZES = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Each model's folder, and the model and parameters here."""
    root = tmp_path_factory.mktemp("bases")
    for kind in KINDS:
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **SIZES)
        shaken(transformers.AutoModelForCausalLM.from_config(config)).save_pretrained(root / kind)
    loaded = {kind: (root / kind, *load_pretrained(root / kind)) for kind in KINDS}
    return loaded.__getitem__


def again(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def theirs_of(model):
    return in_double(model, IDS)


def ours_of(model, params, adapter, factors):
    return jax.jit(lambda params, factors: adapter.apply(model, params, factors, IDS))(params, factors)


def check(ours, theirs, folder):
    size = np.abs(theirs).max()
    assert np.abs(np.asarray(ours) - theirs).max() < TOLERANCE * size
    assert np.abs(theirs - theirs_of(again(folder))).max() > 1000 * TOLERANCE * size


ATTENTION = {"phi3": ["qkv_proj"]}
MLP = {"phi3": ["gate_up_proj", "down_proj"]}


def targets(kind):
    return [*ATTENTION.get(kind, ["q_proj", "v_proj"]), *MLP.get(kind, ["up_proj", "down_proj"])]


THEIRS = {
    "lora": lambda kind: peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets(kind)),
    "all-linear": lambda kind: peft.LoraConfig(r=2, target_modules="all-linear"),
    "dora": lambda kind: peft.LoraConfig(r=2, use_dora=True, target_modules=targets(kind)),
    "hira": lambda kind: peft.HiraConfig(r=2, target_modules=targets(kind)),
    "ia3": lambda kind: peft.IA3Config(
        target_modules=["qkv_proj", "down_proj"] if kind == "phi3" else ["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "norms": lambda kind: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_saved_runs_here_and_goes_back(bases, tmp_path, kind, name):
    folder, model, params = bases(kind)
    config = THEIRS[name](kind)
    config.task_type = "CAUSAL_LM"
    theirs = shaken(peft.get_peft_model(again(folder), config), by=0.5)
    theirs.save_pretrained(tmp_path / "theirs")
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    expected = theirs_of(theirs)
    check(ours_of(model, params, adapter, factors), expected, folder)
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    check(theirs_of(peft.PeftModel.from_pretrained(again(folder), tmp_path / "ours").eval()), expected, folder)


OURS = {
    "lora": Adapter(LoRA(rank=2, alpha=3.0)),
    "lora on everything": Adapter(LoRA(rank=2, alpha=2.0), r"attention/(query|key|value|out)$|mlp/(gate|up|down)$"),
    "dora": Adapter(DoRA(rank=2)),
    "hira": Adapter(HiRA(rank=2), r"attention/value$|mlp/gate$"),
    "ia3": Adapter(IA3()),
    "norms": Adapter(LayerNorm()),
}


def random_factors(adapter, params):
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    return jax.tree.map(lambda leaf: jnp.asarray(np.float32(0.5 * random.standard_normal(leaf.shape))), shapes)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_we_saved_runs_there_and_comes_back(bases, tmp_path, kind, name):
    folder, model, params = bases(kind)
    adapter = OURS[name]
    if kind == "llama":
        model, params = load_pretrained(folder, compute=Compute(scan_layers=True))
    factors = random_factors(adapter, params)
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    theirs = peft.PeftModel.from_pretrained(again(folder), tmp_path / "ours").eval()
    expected = theirs_of(theirs)
    check(ours_of(model, params, adapter, factors), expected, folder)
    check(ours_of(model, params, *load_peft(tmp_path / "ours", model, params)), expected, folder)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_goes_there_and_comes_back(bases, tmp_path, kind, trained):
    """PEFT's loaders expect its head in the file, trained or not."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(kind, **SIZES, num_labels=3)
    base = tmp_path / "base"
    shaken(transformers.AutoModelForSequenceClassification.from_config(config)).save_pretrained(base)
    model, params = load_pretrained(base)
    adapter = Adapter(LoRA(rank=2), also_train="^classifier/out$" if trained else ())
    factors = random_factors(adapter, params)
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(base))
    loaders = (peft.AutoPeftModelForSequenceClassification, *(() if trained else (peft.AutoPeftModel,)))
    expected = ours_of(model, params, adapter, factors)
    for loader in loaders:
        logits = theirs_of(loader.from_pretrained(tmp_path / "ours").eval())
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(logits).max())
    there = transformers.AutoModelForSequenceClassification.from_pretrained(base).eval()
    assert np.abs(theirs_of(there) - expected).max() > 1e-2 * np.abs(expected).max()
    again, own = load_peft(tmp_path / "ours", model, params)
    assert bool(again.also_train) == trained
    np.testing.assert_allclose(ours_of(model, params, again, own), expected, rtol=1e-5, atol=1e-5)

    if trained:
        _, causal, its = bases(kind)
        with pytest.raises(
            UserError, match=r"for head 'classification' with 3 labels, and the model has head 'causal'"
        ):
            load_peft(tmp_path / "ours", causal, its)


@pytest.mark.parametrize("transform", [HUT(rank=2), SSF(), LoRA()], ids=lambda transform: transform.name)
def test_a_merged_model_runs_in_transformers(bases, tmp_path, transform):
    if transform.name == "ssf":
        transform = SSF(shift=False)
    folder, model, params = bases("phi3")
    adapter = Adapter(transform)
    factors = random_factors(adapter, params)
    save_pretrained(tmp_path, model, adapter.merge(params, factors))
    check(ours_of(model, params, adapter, factors), theirs_of(again(tmp_path)), folder)
