"""Any tree of parameters is merged, and trains through `merge`: dicts, tuples, modules that are pytrees, NNX states."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hut_jax import HUT, Adapter
from hut_jax.core.any_tree import fill_any, flatten_any


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias", "activation"], meta_fields=["size"])
@dataclasses.dataclass
class Layer:
    """A module as Equinox has them: a pytree whose leaves have the names of its attributes."""

    weight: jax.Array
    bias: jax.Array
    activation: object
    size: int

    def __call__(self, x):
        return jnp.tanh(self.weight @ x + self.bias)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def equinox():
    layers = tuple(Layer(draw(4, 4, seed=i), draw(4), "tanh", 4) for i in range(2))
    return layers, lambda layers, x: layers[1](layers[0](x)), Adapter(HUT(rank=2), "weight", layout={".": "oi"})


def haiku():
    params = {f"mlp/~/linear_{i}": {"w": draw(4, 4, seed=i), "b": draw(4)} for i in range(2)}

    def run(params, x):
        for one in params.values():
            x = jnp.tanh(x @ one["w"] + one["b"])
        return x

    return params, run, Adapter(HUT(rank=2), "linear_")


def tuples():
    params = [(draw(4, 4, seed=i), draw(4)) for i in range(2)]
    return params, lambda p, x: jnp.tanh(jnp.tanh(x @ p[0][0] + p[0][1]) @ p[1][0]), Adapter(HUT(rank=2), "^./0$")


def nnx_state():
    graph, params = nnx.split(nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
    return params, lambda params, x: nnx.merge(graph, params)(x), Adapter(HUT(rank=2), "all-linear")


@pytest.mark.parametrize("make", [equinox, haiku, tuples, nnx_state])
def test_any_tree_is_the_base_at_zero_factors_and_trains_through_merge(make):
    params, run, adapter = make()
    x, start = draw(4, seed=5), adapter.init(jax.random.key(0), params)

    def loss(factors):
        return jnp.sum(run(adapter.merge(params, factors), x) ** 2)

    merged = adapter.merge(params, start)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    before, gradient = jax.jit(jax.value_and_grad(loss))(start)
    stepped = jax.tree.map(lambda leaf, g: leaf - 0.01 * g / jnp.linalg.norm(g), start, gradient)
    assert loss(stepped) < before
    back = adapter.unmerge(adapter.merge(params, stepped), params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_what_is_no_array_stays_where_it_was():
    layers, *_ = equinox()
    flat = flatten_any(layers)
    assert list(flat) == [("0", "weight"), ("0", "bias"), ("1", "weight"), ("1", "bias")]
    filled = fill_any(layers, {("0", "bias"): jnp.ones(4)})
    assert filled[0].activation == "tanh"
    assert filled[0].bias.sum() == 4
    assert filled[1].weight is layers[1].weight


def test_a_whole_nnx_state_has_the_parameters_alone():
    class Model(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

    model = Model()
    state = nnx.state(model)
    assert set(flatten_any(state)) == {("layer", "kernel"), ("layer", "bias"), ("norm", "scale"), ("norm", "bias")}
    filled = fill_any(state, {("layer", "bias"): jnp.ones(4)})
    assert filled["norm"]["mean"][...] is state["norm"]["mean"][...]
    copy = fill_any(model, {("layer", "bias"): jnp.ones(4)})
    assert (copy.layer.bias[...].sum(), model.layer.bias[...].sum()) == (4, 0)
