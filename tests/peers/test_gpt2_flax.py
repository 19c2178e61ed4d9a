"""Against transformers 4's FlaxGPT2LMHeadModel, which needs an environment of its own."""

import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.hub.saving import save_pretrained

pytestmark = pytest.mark.peers
PYTHON = Path(__file__).parents[2] / ".venv-flax" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-flax with transformers 4's Flax classes")
def test_logits(tmp_path):
    config = GPT2Config(61, 24, 20, 3, 4, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    model = GPT2(config)
    params = init_params(model, jax.random.key(0))
    save_pretrained(tmp_path, model, params)
    ids = np.random.default_rng(0).integers(0, 61, (3, 17))
    mask = np.arange(17) >= np.array([[0], [5], [16]])
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    np.savez(tmp_path / "inputs.npz", input_ids=ids, attention_mask=mask.astype(np.int32), position_ids=positions)
    script = Path(__file__).with_name("run_flax_gpt2.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [PYTHON, script, tmp_path], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    expected = np.load(tmp_path / "logits.npy")
    ours = model.apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask), position_ids=jnp.asarray(positions))
    np.testing.assert_allclose(ours[mask], expected[mask], rtol=1e-4, atol=1e-4)
