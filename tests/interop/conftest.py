"""Small models with random parameters, made without compiling anything."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig


@pytest.fixture(scope="session")
def with_params():
    """A model together with random parameters for it."""

    def with_params(model):
        random = np.random.default_rng(0)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        return model, jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), jnp.float32), shapes)

    return with_params


@pytest.fixture(scope="session")
def gpt2(with_params):
    return with_params(GPT2(GPT2Config(vocab_size=7, n_positions=5, n_embd=4, n_layer=2, n_head=2)))


@pytest.fixture(scope="session")
def roberta(with_params):
    config = RobertaConfig(
        model_type="roberta",
        vocab_size=7,
        hidden_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=8,
        head="classification",
        labels=("no", "yes", "maybe"),
    )
    return with_params(Roberta(config))


@pytest.fixture
def write(tmp_path):
    """Write an adapter's two files as PEFT does, to a folder."""

    def write(config, tensors, folder=tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        tensors = {f"base_model.model.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        return folder

    return write
