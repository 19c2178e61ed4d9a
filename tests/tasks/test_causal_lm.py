"""The loss of a language model: packed rows have that of their sequences."""

from functools import partial

import jax
import numpy as np

from hut_jax.data.batching import Batches, Batching
from hut_jax.data.packing import pack
from hut_jax.data.sequences import Sequences
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.tasks.causal_lm import causal_lm_loss


def test_packed_rows_have_the_loss_and_the_gradients_of_their_sequences():
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 23, length).tolist() for length in random.integers(3, 13, 12)]
    data = Sequences.from_lists(sequences, [int(random.integers(1, len(one))) for one in sequences])
    model = GPT2(GPT2Config(vocab_size=23, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    params = jax.jit(partial(init_params, model))(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + random.normal(0, 0.3, leaf.shape).astype(np.float32), params)

    @jax.jit
    def loss(params, batch):
        apply = partial(model.apply, {"params": params})
        return jax.value_and_grad(lambda p: causal_lm_loss(partial(model.apply, {"params": p}), batch)[0])(params), (
            causal_lm_loss(apply, batch)[1]
        )

    (one, gradients), count = loss(params, Batches(data, Batching(len(data)))[0])
    packed = pack(data, 30)  # longer than n_positions
    assert len(packed) < len(data) / 2
    batch = Batches(packed, Batching(len(packed), length_multiple=30))[0]
    (other, others), as_many = loss(params, batch)
    np.testing.assert_allclose(other, one, rtol=1e-6)
    assert count == as_many == data.slots.sum()
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    (mixed, _), _ = loss(params, {**batch, "segment_ids": np.minimum(batch["segment_ids"], 1)})
    assert abs(mixed - one) > 1e-3 * one  # texts that see each other
