"""The loss of a language model: packed rows have that of their sequences."""

from functools import partial

import jax
import numpy as np
import pytest

from hut_jax.core.scanned_layers import stack_layers
from hut_jax.data.batching import Batches, Batching
from hut_jax.data.packing import pack
from hut_jax.data.sequences import Sequences
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.rope import Rope
from hut_jax.models.decoder.traits import FULL, SLIDING
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.tasks.causal_lm import causal_lm_loss

POSITIONS = 16
DECODER = partial(
    DecoderConfig,
    vocab_size=23,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=POSITIONS,
)
WINDOW = {"sliding_window": 3, "layer_types": (SLIDING, FULL), "local_rope": Rope(rope_theta=50.0)}
MODELS = {
    "gpt2": GPT2(GPT2Config(vocab_size=23, n_positions=POSITIONS, n_embd=8, n_layer=1, n_head=2)),
    "llama": Decoder(DECODER("llama")),
    "gemma3": Decoder(DECODER("gemma3_text", **WINDOW), scan_layers=True),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.full] * (name != "gpt2")) for name in MODELS])
def test_packed_rows_have_the_loss_and_the_gradients_of_their_sequences(name):
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 23, length).tolist() for length in random.integers(3, 13, 12)]
    data = Sequences.from_lists(sequences, [int(random.integers(1, len(one))) for one in sequences])
    model = MODELS[name]
    params = jax.jit(partial(init_params, model.clone(scan_layers=False)))(jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: leaf + random.normal(0, 0.3 if name == "gpt2" else 0.1, leaf.shape).astype(np.float32), params
    )
    params = jax.device_get(stack_layers(params)) if model.scan_layers else params

    @jax.jit
    def loss(params, batch):
        def summed(params):
            total, count, _ = causal_lm_loss(partial(model.apply, {"params": params}), batch)
            return total, count

        return jax.value_and_grad(summed, has_aux=True)(params)

    (one, count), gradients = loss(params, Batches(data, Batching(len(data)))[0])
    packed = pack(data, 30)  # longer than n_positions
    assert len(packed) < len(data) / 2
    batch = Batches(packed, Batching(len(packed), length_multiple=30))[0]
    (other, as_many), others = loss(params, batch)
    np.testing.assert_allclose(other, one, rtol=1e-6)
    assert count == as_many == data.slots.sum()
    (mixed, _), wrong = loss(params, {**batch, "segment_ids": np.minimum(batch["segment_ids"], 1)})
    assert abs(mixed - one) > 1e-3 * one  # texts that see each other
    assert apart(gradients, others) < 1e-6 < 1e-3 < apart(gradients, wrong)


def apart(tree, other):
    """The norm of the difference of two trees, relative to that of the first."""
    ours, theirs = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one)]) for one in (tree, other))
    return np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
