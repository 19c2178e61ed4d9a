"""Models that could see the factors, or hide a kernel: what they compute is the merged model's all the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, IA3, Adapter, LoRA, UserError

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
PARAMS = {"d": {"kernel": X[[0, 1, 2, 0]] + np.eye(4, dtype=np.float32), "bias": X[0]}}


PLAIN = LoRA(rank=2)


def both(model, x=X, params=PARAMS, transform=PLAIN, offset=0.1, **options):
    """What the adapter computes, and what the merged model does."""
    adapter = Adapter(transform, "d" if "d" in params else "all-linear")
    factors = jax.tree.map(lambda leaf: leaf + offset, adapter.init(jax.random.key(0), params))
    got = adapter.apply(model, params, factors, x, **options)
    return got, model.apply({"params": adapter.merge(params, factors)}, x, **options)


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def of(function):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, **options):
            return function(self, x, **options)

    return Model()


def counting(module, x):
    return nn.Dense(4, name="d")(x) / sum(leaf.size for leaf in jax.tree.leaves(module.variables))


def numbering(module, x):
    return nn.Dense(4, name="d")(x), len(jax.tree.leaves(module.variables))


def own_collection(module, x):
    calls = module.variable("adapter", "calls", lambda: jnp.zeros(()))
    calls.value += 1
    return nn.Dense(4, name="d")(x) * calls.value


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (lambda module, x: (nn.Dense(4, name="d")(x), {"adapter": x.sum(), "loss": x.mean()}), {}),
        (own_collection, {"mutable": ["adapter"]}),
        (counting, {}),
        (numbering, {}),
    ],
    ids=["an output called adapter", "a collection called adapter", "counts its variables", "returns their number"],
)
def test_a_model_that_uses_the_name_of_the_collection_or_counts_its_variables_is_the_merged_one(function, options):
    assert_same(*both(of(function), **options))


def test_a_collection_of_the_users_called_adapter_is_the_models():
    model = of(own_collection)
    given = {"adapter": {"calls": jnp.float32(3)}}
    adapter = Adapter(LoRA(rank=2), "d")
    factors = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(jax.random.key(0), PARAMS))
    got = adapter.apply(model, PARAMS, factors, X, collections=given, mutable=["adapter"])
    assert_same(got, model.apply({"params": adapter.merge(PARAMS, factors), **given}, X, mutable=["adapter"]))


class Output:
    """No tree of arrays."""

    def __init__(self, kernel):
        self.kernel = kernel


@pytest.mark.parametrize("hide", [Output, lambda kernel: lambda: kernel], ids=["object", "closure"])
def test_a_kernel_within_an_object_that_a_model_returns_is_the_merged_one(hide):
    def function(module, x):
        dense = nn.Dense(4, name="d")
        return dense(x), hide(dense.variables["params"]["kernel"])

    shown = (one[1].kernel if isinstance(one[1], Output) else one[1]() for one in both(of(function)))
    np.testing.assert_array_equal(*shown)


class Config:
    tied = False


class Configured(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4, name="d")
        y = dense(x)
        return y @ dense.variables["params"]["kernel"].T if self.config.tied else y


def test_what_a_model_reads_may_change_between_two_calls():
    config = Config()
    model = Configured(config)
    for config.tied in (False, True):
        assert_same(*both(model))


@pytest.mark.parametrize(
    "transform", [pytest.param(HUT(rank=2, spread="sum"), marks=pytest.mark.full), IA3(side="input")], ids=str
)
def test_zero_factors_change_no_bit_of_several_kernels_on_one_input(transform):
    axes = {"params": 0, "adapter": 0}
    model = nn.vmap(nn.Dense, in_axes=None, variable_axes=axes, split_rngs={"params": True}, axis_size=4)(16)
    x = np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)
    params = model.init(jax.random.key(0), x)["params"]
    adapter = Adapter(transform, "all-linear")
    factors = adapter.init(jax.random.key(0), params)
    np.testing.assert_array_equal(adapter.apply(model, params, factors, x), model.apply({"params": params}, x))


def test_a_derivative_in_forward_mode_is_the_merged_models():
    def tangent(module, x):
        dense = nn.Dense(4, name="d")
        return jax.jvp(lambda x: jnp.tanh(dense(x)), (x,), (jnp.ones_like(x),))[1]

    assert_same(*both(of(tangent), transform=HUT(rank=2)))  # within the model
    plain = of(lambda module, x: nn.Dense(4, name="d")(x))
    adapter = Adapter(HUT(rank=2), "d")
    factors = jax.tree.map(lambda leaf: leaf + 0.1, adapter.init(jax.random.key(0), PARAMS))
    ways = (
        lambda x: adapter.apply(plain, PARAMS, factors, x),
        lambda x: plain.apply({"params": adapter.merge(PARAMS, factors)}, x),
    )
    assert_same(*(jax.jvp(way, (X,), (X,))[1] for way in ways))  # outside of it


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_a_batch_without_rows_runs_and_so_does_its_gradient(shape):
    model = of(lambda module, x: nn.Dense(4, name="d")(x))
    for transform in (HUT(rank=2), LoRA(rank=2)):
        adapter, x = Adapter(transform, "d"), np.ones(shape, np.float32)
        factors = jax.eval_shape(adapter.init, jax.random.key(0), PARAMS)

        def loss(factors, x, adapter=adapter):
            return adapter.apply(model, PARAMS, factors, x, shards=2).sum()

        gradients = jax.eval_shape(jax.grad(loss), factors, x)
        assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, factors)


DROPPED = LoRA(rank=2, dropout=0.5)


def test_one_key_for_all_rngs_is_for_dropout_too():
    model = of(lambda module, x: nn.Dense(4, name="d")(x))
    got, expected = both(model, transform=DROPPED, rngs=jax.random.key(0))
    assert np.abs(got - expected).max() > 1e-3


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(4, name="inner")(x), None


def test_dropout_that_cannot_act_is_one_line():
    axes = {"params": 0, "adapter": 0}
    scanned = of(
        lambda module, x: nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=2)(name="b")(x)[0]
    )
    params = scanned.init(jax.random.key(0), X)["params"]
    with pytest.raises(UserError, match=r'b/inner has no rng "dropout" here.*split_rngs=\{"dropout": True\}'):
        both(scanned, params=params, transform=DROPPED, rngs={"dropout": jax.random.key(0)})

    class Switched(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(4, name="d")(x)

    with pytest.raises(UserError, match=r"train= decides whether it acts.*make it static"):
        jax.jit(lambda train: both(Switched(), transform=DROPPED, train=train))(True)
