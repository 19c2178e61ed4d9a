"""Run by a Python with transformers 4's Flax classes: adapt them, train, and print what the tests compare as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import transformers

from hut_jax import HUT, Adapter, LoRA

IDS = np.array([[5, 8, 13, 21, 34, 5], [7, 11, 18, 29, 4, 7]])
ONES = np.ones_like(IDS)
SIZES = {"vocab_size": 40, "num_labels": 4}
ROBERTA = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
GPT2 = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}


def cases():
    """By class: the model, and the arguments of its Linen module."""
    config = transformers.RobertaConfig(**SIZES, **ROBERTA, max_position_embeddings=34)
    places = np.cumsum(ONES, 1) + 1
    yield transformers.FlaxRobertaForSequenceClassification(config), (IDS, ONES, 0 * IDS, places, np.ones((2, 2)))
    yield transformers.FlaxGPT2LMHeadModel(transformers.GPT2Config(**SIZES, **GPT2)), (IDS, ONES, places - 2)


def trial(model, arguments, adapter):
    """The axes of each kernel, the losses of 20 steps, and logits of ours, of merged parameters, of the base."""
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(0.3 * random.standard_normal(leaf.shape)), model.params)
    tx = adapter.optimizer(optax.adam, 1e-2, params=params)

    def logits(factors):
        return adapter.apply(model.module, params, factors, *arguments, deterministic=True).logits

    def loss(factors):
        return -jax.nn.log_softmax(logits(factors))[..., 3].mean()

    def step(carry, _):
        factors, state = carry
        value, gradient = jax.value_and_grad(loss)(factors)
        updates, state = tx.update(gradient, state, factors)
        return (optax.apply_updates(factors, updates), state), value

    @jax.jit
    def train(factors):
        (factors, _), losses = jax.lax.scan(step, (factors, tx.init(factors)), None, length=20)
        return losses, logits(factors), adapter.merge(params, factors)

    factors = adapter.init(jax.random.key(0), params)
    losses, ours, merged = train(factors)
    theirs = [model(IDS, params=tree, train=False).logits for tree in (merged, params)]
    return {
        "axes": {"/".join(site.path): site.layout.letters for site in adapter.sites(params)},
        "losses": losses.tolist(),
        "logits": [np.asarray(one).tolist() for one in (ours, *theirs)],
        "start": np.asarray(jnp.abs(logits(factors) - theirs[1]).max()).tolist(),
    }


results = {
    f"{type(model).__name__} {transform.name} {targets}": trial(model, arguments, Adapter(transform, targets))
    for model, arguments in cases()
    for transform in (HUT(rank=2), LoRA(rank=2))
    for targets in (None, "all-linear")
}
json.dump(results, sys.stdout)
