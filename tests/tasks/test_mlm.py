"""Masked language modelling: what is hidden, how, and what the loss is of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from hut_jax.config import default_config, freeze, set_transform
from hut_jax.core.errors import UserError
from hut_jax.models.hub.pretrained import load_pretrained
from hut_jax.tasks.mlm import hide, masked_lm_loss
from hut_jax.train import train
from hut_jax.training.log import read_metrics

MASK, VOCAB, CLS, SEP = 99, 100, 0, 2


def blocks(rows=200, length=100, seed=0):
    return np.random.default_rng(seed).integers(10, 90, (rows, length), np.int32)


@jax.jit
def hidden(seed, tokens, free):
    return hide(jax.random.key(seed), tokens, free, mask=MASK, vocab=VOCAB)


def test_fifteen_percent_are_predicted_eight_in_ten_of_them_masked_and_one_in_ten_random():
    tokens = blocks()
    shown, positions, weights = jax.device_get(hidden(0, tokens, tokens >= 0))
    assert positions.shape == weights.shape == (200 * 15,)
    assert weights.min() == 1
    rows = positions.reshape(200, 15)
    assert all(len(set(row)) == 15 for row in rows)
    assert (rows // 100 == np.arange(200)[:, None]).all()
    seen, old = shown.reshape(-1)[positions], tokens.reshape(-1)[positions]
    # Of 3,000, five standard deviations are 0.037 and 0.027. A random token is the mask or the old one 1 in 100 times.
    assert np.mean(seen == MASK) == pytest.approx(0.801, abs=0.037)
    assert np.mean(seen == old) == pytest.approx(0.101, abs=0.028)
    assert np.mean((seen != MASK) & (seen != old)) == pytest.approx(0.098, abs=0.027)
    untouched = np.ones(tokens.size, bool)
    untouched[positions] = False
    np.testing.assert_array_equal(shown.reshape(-1)[untouched], tokens.reshape(-1)[untouched])


def test_only_free_tokens_are_hidden_and_a_row_without_enough_has_less_weight():
    tokens = blocks(rows=3, length=20)
    free = np.zeros(tokens.shape, bool)
    free[0] = free[1, 4] = True
    shown, _, weights = jax.device_get(hidden(1, tokens, free))
    np.testing.assert_array_equal(weights.reshape(3, 3).sum(1), [3, 1, 0])
    np.testing.assert_array_equal(shown[2], tokens[2])
    np.testing.assert_array_equal(np.delete(shown[1], 4), np.delete(tokens[1], 4))


def test_the_loss_is_the_cross_entropy_of_what_was_hidden():
    tokens = blocks(rows=4, length=40)
    tokens[1, 7] = SEP
    batch = {"input_ids": tokens, "attention_mask": np.ones(tokens.shape, bool)}
    table = np.random.default_rng(1).standard_normal((VOCAB, VOCAB)).astype(np.float32)
    options = {"cls": CLS, "sep": SEP, "mask": MASK, "vocab": VOCAB, "deterministic": True}

    @jax.jit
    def run(batch):
        calls = []

        def apply(shown, mask, *, logits_at, deterministic):
            assert deterministic
            calls.append((shown, logits_at))
            return jnp.asarray(table)[shown.reshape(-1)[logits_at]]

        total, weight, _ = masked_lm_loss(apply, batch, **options)
        return total, weight, calls[0]

    total, weight, (shown, positions) = jax.device_get(run(batch))
    framed = tokens.copy()
    framed[:, 0] = CLS
    np.testing.assert_array_equal(shown[:, 0], CLS)
    assert shown[1, 7] == SEP
    logs = log_softmax(table[shown.reshape(-1)[positions]], axis=-1)
    expected = -logs[np.arange(len(positions)), framed.reshape(-1)[positions]].sum()
    assert weight == len(positions) == 4 * 6
    assert total == pytest.approx(expected, rel=1e-5)
    assert jax.device_get(run(batch))[0] == total


def test_each_step_hides_anew():
    tokens = blocks(rows=2, length=40)
    batch = {"input_ids": tokens, "attention_mask": np.ones(tokens.shape, bool)}

    @jax.jit
    def run(seed):
        seen = []

        def apply(shown, mask, *, logits_at, rngs):
            seen.append(logits_at)
            return jnp.zeros((len(logits_at), VOCAB))

        rngs = {"dropout": jax.random.key(seed)}
        masked_lm_loss(apply, batch, cls=CLS, sep=SEP, mask=MASK, vocab=VOCAB, rngs=rngs)
        return seen[0]

    seen = [np.asarray(run(seed)) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(seen[0], seen[2])
    assert (seen[0] != seen[1]).any()


@pytest.fixture
def mlm_config(small_encoder, tmp_path):
    text = " ".join(f"the {colour} bird sang to the {colour} cat" for colour in ("red", "blue", "green") * 60)
    (tmp_path / "birds.txt").write_text(text)
    config = default_config("mlm")
    config.model = str(small_encoder)
    config.data.update({"text": str(tmp_path / "birds.txt"), "block": 32, "holdout": 0.1})
    config.train.update({"steps": 20, "warmup": 0.0, "batch_size": 8})
    config.log.every = config.eval.every = config.checkpoint.every = 20
    return config


@pytest.mark.full
def test_it_pre_trains_a_base_from_random_weights(mlm_config, tmp_path):
    mlm_config.init = "random"
    set_transform(mlm_config, "full")
    mlm_config.train.learning_rate = 1e-2
    result = train(freeze(mlm_config), tmp_path / "run")
    before = read_metrics(tmp_path / "run")[0]["loss"]
    assert before == pytest.approx(np.log(2053), abs=0.1)  # the vocabulary's size: nothing is known yet
    assert result["metrics"]["loss"] < before - 1


@pytest.mark.full
def test_an_adapter_adapts_a_base_whose_head_is_new(mlm_config, tmp_path):
    mlm_config.adapter.update({"rank": 2, "also_train": ("^mlm",)})
    mlm_config.train.update({"learning_rate": 0.05, "also_train_learning_rate": 1e-2})
    result = train(freeze(mlm_config), tmp_path / "run")
    assert result["metrics"]["loss"] < read_metrics(tmp_path / "run")[0]["loss"] - 0.3
    assert load_pretrained(mlm_config.model, head="mlm", draw=False, report=print)[0].config.head == "mlm"


def test_a_text_must_be_named_and_the_tokenizer_be_an_encoders(mlm_config, small_model, tmp_path):
    mlm_config.adapter.also_train = ("^mlm",)
    mlm_config.adapter.rank = 2
    mlm_config.data.text = ""
    with pytest.raises(UserError, match=r"config\.data\.text is empty"):
        train(freeze(mlm_config), tmp_path / "run")
    mlm_config.model = str(small_model)
    with pytest.raises(UserError, match="gpt2 has no head 'mlm'; valid: 'causal'"):
        train(freeze(mlm_config), tmp_path / "run")
