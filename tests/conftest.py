"""Set before jax is imported: eight virtual devices for the sharding tests, and shapes that are checked."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the tests' time is XLA's; what was compiled once, here or in a command that a test starts, is kept.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent

# Shapes in signatures are checked under test, and only there.
install_import_hook(
    ["hut_jax.transforms", "hut_jax.models.gpt2", "hut_jax.models.layers", "hut_jax.models.roberta"], "beartype.beartype"
)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A random GPT-2 of two layers with the embedded tokenizer, in Hugging Face's layout."""
    import jax

    from hut_jax.data.tokenizer import load_tokenizer
    from hut_jax.models.gpt2 import GPT2, GPT2Config
    from hut_jax.models.pretrained import init_params, save_pretrained

    folder = tmp_path_factory.mktemp("models") / "small"
    config = GPT2Config(
        vocab_size=2048, n_positions=192, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2(config)
    save_pretrained(folder, model, init_params(model, jax.random.key(3)))
    load_tokenizer(ROOT / "assets/tiny").save(folder)
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """A few made-up restaurants in E2E's files, with TFDS' cache beside them."""
    from hut_jax.data.restaurants import write_restaurants

    folder = tmp_path_factory.mktemp("restaurants")
    write_restaurants(folder, seed=0, train=16, validation=3, test=3)
    return folder


@pytest.fixture
def small_config(small_model, small_data):
    """A run of twelve updates on the small model and data."""
    from hut_jax.config import default_config

    config = default_config()
    config.model = str(small_model)
    config.data.dir = str(small_data)
    config.data.cache = str(small_data / "cache")
    config.data.length_multiple = config.data.slot_multiple = 64  # few shapes to compile
    config.adapter.rank = 2
    config.train.steps = 12
    config.train.warmup = 2.0
    config.train.learning_rate = 2e-2
    config.log.every = 2
    config.eval.every = 6
    config.checkpoint.every = 3
    return config
