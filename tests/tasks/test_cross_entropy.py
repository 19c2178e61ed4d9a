"""The cross-entropy in chunks against the whole of it, on the models themselves."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, Full, LoRA
from hut_jax.core.trees import flatten
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.parallel.activations import run_on
from hut_jax.parallel.mesh import TRANSFORMER, make_mesh, param_specs, place_batch, shardings
from hut_jax.tasks.cross_entropy import cross_entropy, prediction_loss

VOCAB = 211
SIZES = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
ROBERTA = {
    "model_type": "roberta", "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 34, "head": "mlm",
}  # fmt: skip
MODELS = {
    "tied": GPT2(GPT2Config(**SIZES)),
    "untied": GPT2(GPT2Config(**SIZES, tie_word_embeddings=False)),
    "masked": Roberta(RobertaConfig(**ROBERTA)),
}
ADAPTERS = {
    "inside": Adapter(HUT(rank=2), "attention/(query|value)$"),
    "head": Adapter(LoRA(rank=2), ("attention/query$", "lm_head$")),
    "all": Adapter(Full(), ".*"),
}


def work(seed=0, count=37):
    """Tokens, and positions in them whose labels have weights."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(3, VOCAB, (4, 16))
    return (tokens, np.ones(tokens.shape, bool)), {
        "positions": draw.integers(0, tokens.size, count),
        "labels": draw.integers(0, VOCAB, count),
        "weights": draw.random(count).astype(np.float32),
    }


def random_tree(make, *args, scale, seed=0):
    """Normal numbers in the place of what `make(*args)` would return."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(make, *args)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, scale, leaf.shape), jnp.float32), shapes)


def params_and_factors(model, adapter):
    params = random_tree(partial(init_params, model), jax.random.key(0), scale=0.1)
    return params, random_tree(adapter.init, jax.random.key(1), params, scale=0.1, seed=1)


def losses(model, adapter, label_smoothing=0.0, **options):
    """From factors, by chunks and as a whole; and factors off zero."""
    params, factors = params_and_factors(model, adapter)
    arguments, rest = work()
    apply = partial(adapter.apply, model, params)

    def chunked(factors):
        return prediction_loss(
            partial(apply, factors), *arguments, **rest, label_smoothing=label_smoothing, chunk=10, **options
        )

    def whole(factors):
        logits = apply(factors, *arguments, logits_at=rest["positions"], **options)
        return jnp.sum(cross_entropy(logits, rest["labels"], label_smoothing) * rest["weights"])

    return chunked, whole, factors


@pytest.mark.parametrize(
    ("model", "adapter", "label_smoothing"),
    [
        ("tied", "inside", 0.1),
        pytest.param("untied", "head", 0.0, marks=pytest.mark.full),
        pytest.param("masked", "inside", 0.0, marks=pytest.mark.full),
        pytest.param("tied", "all", 0.1, marks=pytest.mark.full),
    ],
)
def test_chunks_sum_to_the_whole_and_so_do_their_gradients(model, adapter, label_smoothing):
    chunked, whole, factors = losses(MODELS[model], ADAPTERS[adapter], label_smoothing)

    @jax.jit
    def run(factors):
        got, expected = (jax.value_and_grad(lambda f, one=one: 3 * one(f))(factors) for one in (chunked, whole))
        return 3 * chunked(factors), got, expected  # without a gradient the sum is another program

    alone, got, expected = jax.device_get(run(factors))
    np.testing.assert_allclose([alone, got[0]], expected[0], rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got[1], expected[1])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1])) > 1e-2


def test_the_head_drops_something_else_in_each_chunk():
    """All hidden states are alike, and so would be all losses of chunks with one key."""

    def apply(x, mask=None, *, method=None, logits_at=None, deterministic, rngs):
        if method == "hidden":
            return jnp.ones((*x.shape, 4))
        return jnp.tile(jax.random.normal(rngs["dropout"], (VOCAB,)), (len(x), 1))

    (tokens, mask), rest = work()
    rest["labels"], rest["weights"] = np.zeros(37, int), np.ones(37, np.float32)

    @jax.jit
    def both(key):
        options = {"deterministic": False, "rngs": {"dropout": key}}
        several = prediction_loss(apply, tokens, mask, **rest, chunk=10, **options)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(4))
        each = cross_entropy(jax.vmap(lambda key: jax.random.normal(key, (VOCAB,)))(keys), jnp.zeros(4, int))
        return several, each

    several, each = jax.device_get(both(jax.random.key(3)))
    np.testing.assert_allclose(several, 10 * each[0] + 9 * sum(each[1:]), rtol=1e-5)


@pytest.mark.full
def test_all_logits_are_never_there_at_once():
    model = GPT2(GPT2Config(**{**SIZES, "vocab_size": 5000}))
    adapter = ADAPTERS["inside"]
    params, factors = params_and_factors(model, adapter)
    ids = jnp.zeros((32, 32), int)
    rest = {"positions": jnp.arange(1024), "labels": jnp.arange(1024), "weights": jnp.ones(1024)}

    def loss(factors, params, chunk):
        return prediction_loss(partial(adapter.apply, model, params, factors), ids, None, **rest, chunk=chunk)

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    chunks, whole = (
        gradient.lower(factors, params, n).compile().memory_analysis().temp_size_in_bytes for n in (128, 1024)
    )
    logits = 4 * 5000 * 1024
    assert chunks < logits / 2 < logits < whole


@pytest.mark.full
def test_a_target_that_the_loss_never_runs_has_no_gradient_however_many_chunks_there_are():
    """As on merged parameters."""
    model = MODELS["masked"]
    params = random_tree(partial(init_params, model), jax.random.key(0), scale=0.1)
    params["spare"] = {"kernel": np.ones((16, 16), np.float32), "bias": np.ones(16, np.float32)}
    adapter = Adapter(HUT(rank=2), "spare|attention/query$")
    factors = random_tree(adapter.init, jax.random.key(1), params, scale=0.1)
    arguments, rest = work()
    for chunk in (10, 100):

        def loss(factors, chunk=chunk):
            return prediction_loss(partial(adapter.apply, model, params, factors), *arguments, **rest, chunk=chunk)

        gradients = flatten(jax.jit(jax.grad(loss))(factors))
        assert {path[0] for path, leaf in gradients.items() if not leaf.any()} == {"spare"}


@pytest.mark.full
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_devices_share_out_each_chunk(shape):
    """The loss and its gradient are those of one device, and no device has a whole chunk's logits."""
    model, adapter = GPT2(GPT2Config(**SIZES | {"vocab_size": 1000})), ADAPTERS["inside"]
    params, factors = params_and_factors(model, adapter)
    draw = np.random.default_rng(0)
    batch = {
        "ids": draw.integers(0, 1000, (16, 32)), "mask": np.ones((16, 32), bool), "positions": np.arange(512),
        "labels": draw.integers(0, 1000, 512), "weights": np.ones(512, np.float32),
    }  # fmt: skip

    def loss(forward, factors, params, batch):
        rest = {name: batch[name] for name in ("positions", "labels", "weights")}
        return prediction_loss(partial(forward, params, factors), batch["ids"], batch["mask"], **rest, chunk=16)

    alone = jax.jit(jax.value_and_grad(partial(loss, partial(adapter.apply, model))))(factors, params, batch)
    mesh = make_mesh(*shape)
    specs = param_specs(jax.eval_shape(lambda: params), TRANSFORMER, mesh)
    placed = jax.tree.map(jax.device_put, params, shardings(mesh, specs))
    shared = jax.jit(jax.value_and_grad(run_on(mesh, partial(loss, run_on(mesh, partial(adapter.apply, model))))))
    arguments = factors, placed, place_batch(mesh, batch)
    compiled = shared.lower(*arguments).compile()
    together = compiled(*arguments)
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), together[1], alone[1])
    code = compiled.as_text()
    assert "f32[16,1000]" in code  # of 128 or 64 positions the part of one device
    assert not re.search(r"f32\[(512|128|64),1000\]", code)
