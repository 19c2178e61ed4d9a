"""A small model and prompts of several lengths, shared so that few shapes are compiled."""

import jax
import numpy as np
import pytest

from hut_jax.generation import decoding
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params

CONFIG = GPT2Config(
    vocab_size=50, n_positions=48, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5, eos_token_id=0
)


@pytest.fixture(scope="session")
def model():
    return GPT2(CONFIG)


@pytest.fixture(scope="session")
def params(model):
    return init_params(model, jax.random.key(0))


@pytest.fixture(scope="session")
def prompts():
    return [[3, 14, 15, 9], [26], [5, 35, 8, 9, 7, 9, 32, 38, 46]]


@pytest.fixture
def two_devices(monkeypatch):
    """The sharding of a batch over two devices, and a list that fills with the text of each compiled decoding."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "data")
    compiled, decode = [], decoding._decode

    def record(*args):
        program = decode.lower(*args).compile()
        compiled.append(program.as_text())
        return program(*args[5:])  # the first are static

    monkeypatch.setattr(decoding, "_decode", record)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")), compiled
