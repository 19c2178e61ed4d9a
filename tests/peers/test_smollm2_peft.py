"""PEFT's adapters on the real SmolLM2: here and there the same logits, in both directions."""

import jax
import numpy as np
import pytest

from hut_jax import load_pretrained
from hut_jax.interop import load_peft, save_peft
from hut_jax.models.compute import Compute
from tests.peers.torch_models import in_double, shaken

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TOLERANCE = 1e-5
IDS = np.random.default_rng(0).integers(3, 49_000, (2, 12))
CONFIGS = {
    "lora": peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    "dora": peft.LoraConfig(r=8, use_dora=True, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="module")
def base(smollm2):
    """The folder, and the model and parameters here, with scanned layers, which compile once."""
    _, folder = smollm2
    return folder, *load_pretrained(folder, compute=Compute(scan_layers=True))


def distance(logits, expected):
    """The norm of the difference, of the norm of the expected logits."""
    return np.linalg.norm(np.asarray(logits) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_in_and_out(base, name, tmp_path):
    folder, model, params = base
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    plain = in_double(theirs, IDS)
    theirs = shaken(peft.get_peft_model(theirs, CONFIGS[name]), by=0.02)
    theirs.save_pretrained(tmp_path / "theirs")
    expected = in_double(theirs, IDS, changed=True)
    adapter, factors = load_peft(tmp_path / "theirs", model, params)
    ours = jax.jit(lambda params, factors: adapter.apply(model, params, factors, IDS))(params, factors)
    assert distance(ours, expected) < TOLERANCE
    assert distance(plain, expected) > 1000 * TOLERANCE
    save_peft(tmp_path / "ours", adapter, factors, model, params, base_name=str(folder))
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    again = peft.PeftModel.from_pretrained(again, tmp_path / "ours")
    assert distance(in_double(again, IDS, changed=True), expected) < TOLERANCE
