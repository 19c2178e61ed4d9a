"""Beams that are dropped and copied at every step, against the whole sequences read afresh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.core.scanned_layers import stack_layers
from hut_jax.models import beam_cache
from hut_jax.models.beam_cache import BLOCK, BeamCache, LayerBeams
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.traits import FULL, SLIDING
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params

CONFIG = GPT2Config(
    23, 64, 8, 2, 2, initializer_range=0.4, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False
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
    max_position_embeddings=64,
    initializer_range=0.4,
    attn_logit_softcapping=1.0,
    sliding_window=5,
    layer_types=(SLIDING, FULL),
)
BATCH, LENGTH, BEAMS, STEPS = 3, 6, 4, 3 * BLOCK + 2
LENGTHS = np.array([6, 1, 4])


@pytest.mark.parametrize(
    ("kind", "config", "scan_layers", "parents_are", "beams"),
    [
        (Decoder, GROUPS, False, "any", BEAMS),
        (GPT2, CONFIG, False, "own, then one", BEAMS),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in [
                (GPT2, CONFIG, False, "any", BEAMS),
                (GPT2, CONFIG, False, "any", 1),
                (GPT2, CONFIG, False, "own", BEAMS),
                (GPT2, CONFIG, True, "any", BEAMS),
                (GPT2, CONFIG, True, "any", 1),
                (Decoder, GROUPS, True, "own", BEAMS),
                (Decoder, GROUPS, True, "own, then one", BEAMS),
                (Decoder, GROUPS, False, "any", 1),
            ]
        ),
    ],
)
def test_each_beam_sees_its_prompt_and_its_own_tokens_and_no_other(
    kind, config, scan_layers, parents_are, beams, monkeypatch
):
    """Beams that are their own parents share no token, so that none is dropped. With one parent chunks empty again."""
    monkeypatch.setattr(beam_cache, "CHUNK", 8)
    random = np.random.default_rng(0)
    params = jax.device_get(init_params(kind(config), jax.random.key(0)))
    model = kind(config, scan_layers=scan_layers)
    variables = {"params": jax.device_get(stack_layers(params)) if scan_layers else params}
    prompts = random.integers(0, 23, (BATCH, LENGTH))
    apply = jax.jit(model.apply)

    @jax.jit
    def read(variables):
        _, cache = model.apply(variables, prompts, cache=model.init_cache(BATCH, LENGTH))
        return BeamCache.after_prompts(cache, beams, STEPS)

    cache = read(variables)
    sequences = [[list(prompts[row, :length])] * beams for row, length in enumerate(LENGTHS)]
    written = np.zeros((BATCH, beams, 0), int)  # by which beam
    used = []  # how many chunks, in each step
    close = jax.jit(lambda cache: cache.close())
    reorder = jax.jit(lambda cache, parents: cache.reorder(parents))
    whole = jax.jit(kind(config).apply)
    for step in range(STEPS):
        parents = np.tile(np.arange(beams), (BATCH, 1))
        if parents_are == "any":
            parents = random.integers(0, beams, (BATCH, beams))
        elif parents_are == "own, then one" and step == 2 * BLOCK + 1:
            parents = np.zeros_like(parents)
        tokens = random.integers(0, 23, (BATCH, beams))
        cache = reorder(cache, parents)
        written = np.take_along_axis(written, parents[..., None], axis=1)
        if cache.full:
            cache = close(cache)
            kept = np.asarray(cache.owned).any(axis=1).sum(-1)
            assert list(kept) == [sum(len(set(step)) for step in row.T) for row in written]
        used.append(sum(map(bool, cache.mask(np.ones((BATCH, LENGTH), bool)).used)))
        written = np.concatenate([written, np.tile(np.arange(beams)[:, None], (BATCH, 1, 1))], -1)
        sequences = [[[*sequences[row][parents[row, i]], tokens[row, i]] for i in range(beams)] for row in range(BATCH)]
        positions = np.repeat(LENGTHS[:, None] + step, beams, axis=1)
        logits, cache = apply(
            variables, tokens, np.arange(LENGTH) < LENGTHS[:, None], position_ids=positions, cache=cache
        )
        flat = [sequence for row in sequences for sequence in row]
        padded = np.array([sequence + [0] * (LENGTH + STEPS - len(sequence)) for sequence in flat])
        last = np.array([len(sequence) - 1 for sequence in flat])
        expected = np.asarray(whole({"params": params}, padded))[np.arange(len(flat)), last]
        np.testing.assert_allclose(np.asarray(logits).reshape(len(flat), -1), expected, rtol=1e-4, atol=1e-5)
    assert parents_are != "own, then one" or used[-1] < max(used)
    assert int(cache.index) == STEPS
    assert int(cache.closed) == STEPS // BLOCK * BLOCK
    assert beams == 1 or len({tuple(sequence) for sequence in flat}) > BATCH


@pytest.mark.parametrize("steps", [1, BLOCK, BLOCK + 1, 6 * BLOCK + 2])
def test_the_prompt_is_held_once_and_there_is_room_for_all_tokens(steps):
    model = GPT2(CONFIG)
    cache = jax.eval_shape(lambda: BeamCache.after_prompts(model.init_cache(BATCH, LENGTH), BEAMS, steps))
    layer = jax.tree.map(jnp.shape, cache.layers[0])
    block, closed = BEAMS * min(steps, BLOCK), [size for *_, size in layer.keys]
    assert layer == LayerBeams(
        prompt_keys=(BATCH, 2, 4, LENGTH),
        prompt_values=(BATCH, 2, LENGTH, 4),
        open_keys=(BATCH, 2, block, 4),
        open_values=(BATCH, 2, block, 4),
        keys=tuple((BATCH, 2, 4, size) for size in closed),
        values=tuple((BATCH, 2, size, 4) for size in closed),
    )
    assert steps * BEAMS <= block + sum(closed) < (steps + BLOCK) * BEAMS
