"""transformers 4's Flax models, unmodified, under an adapter."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.parity import check_parity
from tests.peers.conftest import PYTHON

pytestmark = pytest.mark.peers
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results():
    if not PYTHON.exists():
        pytest.skip("no .venv-oldest, the oldest versions with transformers 4's Flax classes")
    ran = subprocess.run(
        [PYTHON, "-W", "ignore", Path(__file__).with_name("adapt_flax.py")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


MODELS = ("FlaxRobertaForSequenceClassification", "FlaxGPT2LMHeadModel")


@pytest.mark.parametrize("targets", [None, "all-linear"])
@pytest.mark.parametrize("method", ["hut", "lora"])
@pytest.mark.parametrize("model", MODELS)
def test_it_trains_and_its_merged_parameters_give_the_same_logits(results, model, method, targets):
    result = results[f"{model} {method} {targets}"]
    ours, merged, base = map(np.asarray, result["logits"])
    check_parity(ours, merged, base, 1e-5)
    assert result["losses"][-1] < result["losses"][0] - 0.05
    assert result["start"] < 1e-5


def test_the_kernels_of_gpt2_are_read_as_they_are_stored(results):
    axes = results[f"{MODELS[1]} hut all-linear"]["axes"]
    assert len(axes) == 8
    assert set(axes.values()) == {"oi"}
    targets = results[f"{MODELS[1]} hut None"]["axes"]
    assert set(targets) == {f"transformer/h/{i}/attn/c_attn" for i in range(2)}
    assert set(results[f"{MODELS[0]} hut all-linear"]["axes"].values()) == {"io"}
