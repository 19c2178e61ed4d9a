"""The package gemma: its Linen transformer under an adapter, and LoRA as its own peft computes it.

Its kernels are the `w`, `gating_einsum` and `linear` of an Einsum of its own. `make test-gemma` installs it and runs
this: it asks for much, and for Python 3.12.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hut_jax import HUT, Adapter, LoRA
from hut_jax.core.trees import unflatten
from tests.parity import check_parity

pytestmark = pytest.mark.peers
gm = pytest.importorskip("gemma.gm", reason="the package gemma is not installed here: see `make test-gemma`")
peft = pytest.importorskip("gemma.peft")

TOKENS = np.array([[2, 5, 7, 9, 11, 3], [2, 8, 1, 4, 6, 9]])
RANK = 2
# gemma.peft takes every axis that the inputs lack as an output: one A for query, key and value, one for both gates.
COMMON = {"attn_vec_einsum": "iio", "linear": "io"}
GENERATIONS = {
    "gemma 2": ({"num_heads": 2}, COMMON | {"qkv_einsum": "ooio", "gating_einsum": "oio"}),
    "gemma 3": (
        {"num_heads": 4, "use_qk_norm": True, "transpose_gating_einsum": True},
        COMMON | {"/q_einsum": "oio", "kv_einsum": "ooio", "gating_einsum": "ooi"},
    ),
}


@pytest.fixture(scope="module", params=GENERATIONS)
def case(request):
    """A tiny model, random parameters, and the layouts that are gemma.peft's."""
    own, layout = GENERATIONS[request.param]
    kinds = gm.nn.AttentionType
    config = gm.nn.config.TransformerConfig(
        num_embed=32,
        embed_dim=16,
        hidden_dim=24,
        head_dim=8,
        num_kv_heads=2,
        final_logit_softcap=30.0,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=(kinds.LOCAL_SLIDING, kinds.GLOBAL),
        sliding_window_size=4,
        **own,
    )
    model = gm.nn.Transformer(config=config, dtype=jnp.float32)
    return model, drawn(jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]), layout


def drawn(shapes, seed=0):
    """Random values of these shapes."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(0.2 * random.standard_normal(leaf.shape)), shapes)


def at_sites(lora):
    """gemma.peft's factors as ours: at the kernel that the wrapper's name tells, and as matrices."""
    factors = {}
    for path, leaf in jax.tree.leaves_with_path(lora):
        *module, wrapper, _, factor = [key.key for key in path]
        kernel = "w" if wrapper == "_LoRAEinsum_0" else wrapper.removeprefix("_LoRAEinsum_")
        factors[*module, kernel, factor] = leaf.reshape((-1, RANK) if factor == "a" else (RANK, -1))
    return unflatten(factors)


@pytest.mark.parametrize("targets", [None, "all-linear"])
@pytest.mark.parametrize("transform", [HUT(rank=RANK), LoRA(rank=RANK)], ids=lambda one: one.name)
def test_it_trains_and_its_merged_parameters_give_the_same_logits(case, transform, targets):
    model, params, _ = case
    adapter = Adapter(transform, targets)
    tx = adapter.optimizer(optax.adam, 1e-2, params=params)

    def logits(factors):
        return adapter.apply(model, params, factors, TOKENS).logits

    def loss(factors):
        return optax.softmax_cross_entropy_with_integer_labels(logits(factors)[:, :-1], TOKENS[:, 1:]).mean()

    def step(carry, _):
        factors, state = carry
        value, gradient = jax.value_and_grad(loss)(factors)
        updates, state = tx.update(gradient, state, factors)
        return (optax.apply_updates(factors, updates), state), value

    @jax.jit
    def train(factors):
        (trained, _), losses = jax.lax.scan(step, (factors, tx.init(factors)), None, length=20)
        merged = adapter.merge(params, trained)
        theirs = [model.apply({"params": tree}, TOKENS).logits for tree in (merged, params)]
        return losses, logits(factors), logits(trained), *theirs

    losses, start, ours, merged, base = train(adapter.init(jax.random.key(0), params))
    check_parity(ours, merged, base, 1e-5)
    np.testing.assert_allclose(start, base, rtol=1e-5, atol=1e-5)
    assert losses[-1] < losses[0] - 0.05


def test_lora_is_that_of_gemmas_own_peft_for_the_same_factors(case):
    model, params, layout = case
    wrapped = gm.nn.LoRA(rank=RANK, model=model, dtype=jnp.float32)
    _, lora = peft.split_params(jax.eval_shape(wrapped.init, jax.random.key(0), TOKENS)["params"])
    lora = drawn(lora, seed=1)
    adapter = Adapter(LoRA(rank=RANK, alpha=float(RANK)), "all-linear", layout=layout)
    factors = at_sites(lora)
    base = model.apply({"params": params}, TOKENS).logits
    ours = adapter.apply(model, params, factors, TOKENS).logits
    theirs = wrapped.apply({"params": peft.merge_params(params, lora)}, TOKENS).logits
    check_parity(ours, theirs, base, 1e-5)
