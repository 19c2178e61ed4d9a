"""Against transformers 4's FlaxGPT2LMHeadModel, which needs an environment of its own."""

import jax
import numpy as np
import pytest

from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.hub.saving import save_pretrained
from tests.parity import change, check_parity

pytestmark = pytest.mark.peers


def test_logits(run_flax, tmp_path):
    config = GPT2Config(61, 24, 20, 3, 4, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    model = GPT2(config)
    params = init_params(model, jax.random.key(0))
    save_pretrained(tmp_path, model, params)
    ids = np.random.default_rng(0).integers(0, 61, (3, 17))
    mask = np.arange(17) >= np.array([[0], [5], [16]])
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    np.savez(tmp_path / "inputs.npz", input_ids=ids, attention_mask=mask.astype(np.int32), position_ids=positions)
    expected = run_flax({tmp_path: "FlaxGPT2LMHeadModel"})[tmp_path]["output"]
    run = jax.jit(lambda params: model.apply({"params": params}, ids, mask, position_ids=positions))
    ours, changed = (np.asarray(run(given))[mask] for given in (params, change(params)))
    check_parity(ours, expected[mask], changed, 1e-4)
