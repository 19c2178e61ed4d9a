"""Tunix's Llama 3, an NNX model that others published, under adapters. `make test-gemma` installs it and runs this."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hut_jax.nnx
from hut_jax import HUT, Adapter, LoRA
from hut_jax.nnx import Factors
from tests.parity import check_parity

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # those of the model
]
LAYOUT = {"(q|k|v)_proj/w": "ioo", "o_proj/w": "iio"}
TOKENS = np.random.default_rng(0).integers(0, 48, (2, 6))


@pytest.fixture
def llama(monkeypatch):
    """The module of the model. The packages around it import whole training stacks, which it does not need."""
    spec = find_spec("tunix")
    if spec is None:
        pytest.skip("the package google-tunix is not installed here: see `make test-gemma`")
    (root,) = spec.submodule_search_locations
    for name in ("tunix", "tunix.generate", "tunix.utils", "tunix.models", "tunix.models.llama3"):
        package = ModuleType(name)
        package.__path__ = [root + name.removeprefix("tunix").replace(".", "/")]
        monkeypatch.setitem(sys.modules, name, package)
    return import_module("tunix.models.llama3.model")


@pytest.mark.parametrize("transform", [HUT(rank=2), LoRA(rank=2)], ids=str)
def test_a_published_nnx_model_trains_and_merges(llama, transform):
    config = llama.ModelConfig(
        num_layers=2, vocab_size=48, embed_dim=16, hidden_dim=32, num_heads=4, head_dim=4, num_kv_heads=2,
        rope_theta=10_000, norm_eps=1e-5,
    )  # fmt: skip
    base = llama.Llama3(config, rngs=nnx.Rngs(0))
    positions, mask = jnp.tile(jnp.arange(6), (2, 1)), jnp.tril(jnp.ones((2, 6, 6), bool))

    def logits(model):
        return model(jnp.asarray(TOKENS), positions, None, mask)[0]

    adapter = Adapter(transform, "all-linear", layout=LAYOUT)
    assert len(adapter.sites(base)) == 2 * 7 + 1
    model = hut_jax.nnx.adapt(base, adapter, rngs=nnx.Rngs(1))
    before = logits(base)
    assert np.array_equal(logits(model), before)
    optimizer = nnx.Optimizer(model, adapter.optimizer(optax.adamw, 2e-2, params=base), wrt=Factors)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(logits(model)[:, :-1], TOKENS[:, 1:]).mean()

        value, gradients = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, Factors))(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(model, optimizer)) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.05
    check_parity(logits(hut_jax.nnx.merge(model)), logits(model), before, tolerance=1e-4)
    kept, given = (nnx.state(one, nnx.Param) for one in (hut_jax.nnx.base(model), base))
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, given))
