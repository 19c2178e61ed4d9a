"""A text read with a cache, in parts and token by token, against the whole text read at once."""

from functools import partial

import jax
import numpy as np
import pytest

from hut_jax.core.scanned_layers import stack_layers
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.rope import Rope
from hut_jax.models.decoder.traits import FULL, SLIDING
from tests.conftest import drawn

pytestmark = pytest.mark.full
LENGTH, PROMPT, PADDING = 12, 7, 2
SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": LENGTH,
}
LONG = partial(Rope, "longrope", 50.0, factor=2.0, short_factor=(1.0, 1.0, 1.0), long_factor=(2.0, 3.0, 4.0))
CASES = {
    "llama": {},
    "smollm3, layers without positions": {"with_positions": (1, 0, 1)},
    "mistral, a window": {"sliding_window": 4},
    "qwen2, windows": {"sliding_window": 4, "layer_types": (SLIDING, FULL, SLIDING), "scan_layers": True},
    "llama, linear": {"rope": Rope("linear", 50.0, factor=3.0)},
    "llama, dynamic": {"rope": Rope("dynamic", 50.0, factor=3.0)},
    "llama, longrope, short": {"rope": LONG(original_max_position_embeddings=LENGTH)},
    "llama, longrope, long": {"rope": LONG(original_max_position_embeddings=PROMPT - 1)},
}
# Keys in a cache stay as they were written, and these types turn those of a longer text otherwise.
BEYOND = {
    "llama, dynamic": {"rope": Rope("dynamic", 50.0, factor=3.0), "max_position_embeddings": 5},
    "llama, longrope": {"rope": LONG(original_max_position_embeddings=PROMPT)},
}


def made(name, *, scan_layers=False, **fields):
    return Decoder(DecoderConfig(**{"model_type": name.partition(",")[0], **SIZES, **fields}), scan_layers=scan_layers)


@pytest.fixture(scope="module")
def batch():
    """Two texts, the second padded on the left."""
    random = np.random.default_rng(1)
    return random.integers(0, 23, (2, LENGTH), np.int32), np.arange(LENGTH) >= [[0], [PADDING]]


@pytest.fixture(scope="module")
def params():
    """Of every model here: they differ in what has no parameters, but for the biases of a Qwen 2."""
    random = np.random.default_rng(0)
    tree = drawn(made("qwen2"), seed=0)
    return jax.tree.map(lambda leaf: random.normal(0, 0.4, leaf.shape).astype(np.float32), tree)


def read_at_once(model, params, ids, mask):
    return np.asarray(jax.jit(model.apply)({"params": params}, ids, mask))[mask]


def read_in_parts(model, params, ids, mask):
    @jax.jit
    def step(params, tokens, cache):
        return model.apply({"params": params}, tokens, mask, cache=cache)

    cache, logits = model.init_cache(len(ids), LENGTH), []
    for start, end in ((0, PROMPT), *((i, i + 1) for i in range(PROMPT, LENGTH))):
        part, cache = step(params, ids[:, start:end], cache)
        logits.append(part)
    return np.concatenate(logits, axis=1)[mask]


@pytest.fixture(scope="module")
def plain(params, batch):
    """The logits of a model without windows, whose layers all have plain positions."""
    return read_at_once(made("llama"), params, *batch)


@pytest.mark.parametrize("name", CASES)
def test_a_cache_gives_what_the_whole_text_gives(name, params, batch, plain):
    """Past twice the window, and of a text that is padded on the left."""
    model = made(name, **CASES[name])
    given = stack_layers(params) if model.scan_layers else params
    expected = read_at_once(model, given, *batch)
    np.testing.assert_allclose(read_in_parts(model, given, *batch), expected, rtol=1e-4, atol=1e-4)
    if name not in ("llama",):
        assert np.abs(expected - plain).max() > 0.1


@pytest.mark.parametrize("name", BEYOND)
def test_where_the_length_changes_the_positions_keys_stay_as_they_were_written(name, params, batch):
    model = made(name, **BEYOND[name])
    apart = read_in_parts(model, params, *batch) - read_at_once(model, params, *batch)
    assert np.abs(apart).max() > 0.05
