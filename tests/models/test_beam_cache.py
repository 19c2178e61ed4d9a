"""Beams that are dropped and copied at every step, against the whole sequences read afresh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.core.scanned_layers import stack_layers
from hut_jax.models.beam_cache import BLOCK, BeamCache, LayerBeams
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.traits import FULL, SLIDING
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params

CONFIG = GPT2Config(
    23, 32, 8, 2, 2, initializer_range=0.4, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False
)
# Groups of heads, a window that leaves the prompt and a block behind, and a cap.
GROUPS = DecoderConfig(
    model_type="gemma2",
    vocab_size=23,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=32,
    initializer_range=0.4,
    attn_logit_softcapping=1.0,
    sliding_window=5,
    layer_types=(SLIDING, FULL),
)
BATCH, LENGTH, BEAMS, STEPS = 3, 6, 4, BLOCK + 3
LENGTHS = np.array([6, 1, 4])


@pytest.mark.parametrize(
    ("kind", "config", "scan_layers"),
    [
        (GPT2, CONFIG, False),
        pytest.param(GPT2, CONFIG, True, marks=pytest.mark.full),
        pytest.param(Decoder, GROUPS, False, marks=pytest.mark.full),
        pytest.param(Decoder, GROUPS, True, marks=pytest.mark.full),
    ],
)
def test_each_beam_sees_its_prompt_and_its_own_tokens_and_no_other(kind, config, scan_layers):
    random = np.random.default_rng(0)
    params = jax.device_get(init_params(kind(config), jax.random.key(0)))
    model = kind(config, scan_layers=scan_layers)
    variables = {"params": jax.device_get(stack_layers(params)) if scan_layers else params}
    prompts = random.integers(0, 23, (BATCH, LENGTH))
    apply = jax.jit(model.apply)

    @jax.jit
    def read(variables):
        _, cache = model.apply(variables, prompts, cache=model.init_cache(BATCH, LENGTH))
        return BeamCache.after_prompts(cache, BEAMS, STEPS)

    cache = read(variables)
    sequences = [[list(prompts[row, :length])] * BEAMS for row, length in enumerate(LENGTHS)]
    reorder = jax.jit(lambda cache, parents: cache.reorder(parents))
    whole = jax.jit(kind(config).apply)
    for step in range(STEPS):
        parents = random.integers(0, BEAMS, (BATCH, BEAMS))
        tokens = random.integers(0, 23, (BATCH, BEAMS))
        cache = reorder(cache, parents)
        sequences = [[[*sequences[row][parents[row, i]], tokens[row, i]] for i in range(BEAMS)] for row in range(BATCH)]
        positions = np.repeat(LENGTHS[:, None] + step, BEAMS, axis=1)
        logits, cache = apply(
            variables, tokens, np.arange(LENGTH) < LENGTHS[:, None], position_ids=positions, cache=cache
        )
        flat = [sequence for row in sequences for sequence in row]
        padded = np.array([sequence + [0] * (LENGTH + STEPS - len(sequence)) for sequence in flat])
        last = np.array([len(sequence) - 1 for sequence in flat])
        expected = np.asarray(whole({"params": params}, padded))[np.arange(len(flat)), last]
        np.testing.assert_allclose(np.asarray(logits).reshape(len(flat), -1), expected, rtol=1e-4, atol=1e-5)
    assert int(cache.index) == STEPS
    assert len({tuple(sequence) for sequence in flat}) > BATCH


def test_the_prompt_is_held_once():
    model = GPT2(CONFIG)
    cache = jax.eval_shape(lambda: BeamCache.after_prompts(model.init_cache(BATCH, LENGTH), BEAMS, STEPS))
    shapes = jax.tree.map(jnp.shape, cache.layers[0])
    assert shapes == LayerBeams(
        prompt_keys=(BATCH, 2, 4, LENGTH),
        prompt_values=(BATCH, 2, LENGTH, 4),
        keys=((BATCH, 2, 4, BLOCK * BEAMS), (BATCH, 2, 4, 3 * BEAMS)),
        values=((BATCH, 2, BLOCK * BEAMS, 4), (BATCH, 2, 3 * BEAMS, 4)),
    )
