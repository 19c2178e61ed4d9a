"""How the examples of a run become batches."""

import numpy as np
import pytest

from hut_jax import UserError
from hut_jax.config import freeze
from hut_jax.data.batching import Batches
from hut_jax.runs.batches import evaluation_batching, training_batching
from hut_jax.runs.run import make_run


def test_packing_is_of_training_alone(small_config):
    plain = make_run(freeze(small_config)).load_data()
    small_config.data.pack = 200
    config = freeze(small_config)
    packed = make_run(config).load_data()
    assert sorted(np.concatenate(packed.train.rows)) == list(range(len(plain.train)))
    assert packed.validation["validation"].tokens.tolist() == plain.validation["validation"].tokens.tolist()

    before = Batches(plain.train, evaluation_batching(config)).report()
    after = Batches(packed.train, training_batching(config)).report()
    assert after.real_tokens > before.real_tokens
    assert evaluation_batching(config).length_multiple == config.data.length_multiple


def test_a_row_that_is_too_short_for_an_example_is_said_with_both_ways_out(small_config):
    small_config.data.pack = 20
    with pytest.raises(UserError) as caught:
        make_run(freeze(small_config)).load_data()
    longest = int(str(caught.value).split("takes ")[1].split()[0])
    assert str(caught.value) == (
        f"config.data.pack is 20, and the longest training example takes {longest} tokens; set it to {longest} or "
        "more, or config.data.max_length to 21 or less"
    )
    small_config.data.pack = longest
    assert make_run(freeze(small_config)).load_data().train.inputs.max() == longest
