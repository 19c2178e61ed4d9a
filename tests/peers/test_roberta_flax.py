"""Against transformers 4's FlaxRoberta and FlaxBert classes, which need an environment of their own."""

import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from hut_jax.models.hub.saving import save_pretrained
from hut_jax.models.roberta import Roberta, default_positions
from hut_jax.models.roberta_config import RobertaConfig

pytestmark = pytest.mark.peers
PYTHON = Path(__file__).parents[2] / ".venv-flax" / "bin" / "python"
CLASSES = {"none": "Model", "mlm": "ForMaskedLM", "classification": "ForSequenceClassification"}


def noise(model):
    """Random parameters, the biases and norms too."""
    random = np.random.default_rng(0)
    tree = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    return jax.tree.map(lambda leaf: random.normal(0.1, 0.3, leaf.shape).astype(np.float32), tree)


@pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-flax with transformers 4's Flax classes")
@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_hidden_states_and_outputs(tmp_path, kind, head):
    pad = {"roberta": 1, "bert": 0}[kind]
    config = RobertaConfig(kind, 61, 20, 3, 4, 28, 24, pad_token_id=pad, head=head, labels=("a", "b", "c"))
    model = Roberta(config)
    params = noise(model)
    save_pretrained(tmp_path, model, params)
    mask = np.arange(17) < np.array([[17], [11], [1]])
    random = np.random.default_rng(0)
    ids = np.where(mask, random.integers(2, 61, mask.shape), pad)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask.astype(np.int32),
        "token_type_ids": (mask & (np.arange(17) >= 6)).astype(np.int32),
        "position_ids": np.broadcast_to(default_positions(config, ids), mask.shape),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = Path(__file__).with_name("run_flax_roberta.py")
    run = subprocess.run(
        [PYTHON, script, tmp_path, f"Flax{kind.capitalize()}{CLASSES[head]}"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    expected = np.load(tmp_path / "outputs.npz")

    def both(model, **inputs):
        hidden = model.hidden(**inputs)
        return hidden, model.pool(hidden) if head == "none" else model(**inputs)

    hidden, output = jax.jit(lambda params: model.apply({"params": params}, **inputs, method=both))(params)
    np.testing.assert_allclose(hidden[mask], expected["hidden"][mask], rtol=1e-4, atol=1e-4)
    at = mask if head == "mlm" else ...
    np.testing.assert_allclose(output[at], expected["output"][at], rtol=1e-4, atol=1e-4)
