"""A hub on this machine, with one user who is logged in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, save_adapter
from hut_jax.adapters.fingerprint import fingerprint
from tests.hub import serving, used


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as hub, used(hub, monkeypatch, tmp_path / "cache"):
        yield hub


@pytest.fixture(scope="session")
def params():
    return {"layer": {"query": {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}}}


@pytest.fixture(scope="session")
def saved(params, tmp_path_factory):
    """The folder of an adapter, the adapter, and its factors."""
    adapter = Adapter(HUT(rank=2), "query")
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    factors = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(leaf.dtype), shapes)
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    save_adapter(folder, adapter, factors, base_name="user/base", base_fingerprint=fingerprint(params))
    return folder, adapter, factors
