"""Factors in a running model: the adapter and its interceptor on Linen models that are not ours."""

from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, IA3, SSF, Adapter, DoRA, Full, HiRA, LoRA, UserError
from hut_jax.adapters.interceptor import dropout_acts


class Block(nn.Module):
    """Every kind of dense kernel: a matrix, several output axes, several input axes."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.Dense(12, name="up")(x)
        y = nn.DenseGeneral((3, 4), name="split")(nn.gelu(y))
        y = nn.DenseGeneral(8, axis=(-2, -1), name="join")(y)
        return x + y, None


class Plain(nn.Module):
    """Blocks one after another, some of them recomputed, and a convolution before them."""

    convolution: bool = False

    @nn.compact
    def __call__(self, x):
        if self.convolution:
            x = nn.Conv(8, (3,), name="conv")(x)
        x, _ = Block(name="block_0")(x)
        x, _ = nn.remat(Block)(name="block_1")(x)
        return x


class Scanned(nn.Module):
    """The same block twice, as one scan."""

    collections: tuple = ("params", "adapter")

    @nn.compact
    def __call__(self, x):
        axes = {name: 0 for name in self.collections}
        scan = nn.scan(nn.remat(Block), variable_axes=axes, split_rngs={"params": True}, length=2)
        return scan(name="layers")(x, None)[0]


def noisy(tree, size=0.3):
    """Random arrays of these shapes."""
    random = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(np.float32(size * random.standard_normal(leaf.shape))), tree)


@lru_cache
def base(model, shape=(4, 5, 8)):
    """An input, and parameters with every bias set, made without compiling anything."""
    x = jnp.asarray(np.random.default_rng(7).standard_normal(shape).astype(np.float32))
    return x, noisy(jax.eval_shape(model.init, jax.random.key(1), x)["params"], 0.35)


def setup(model, adapter, shape=(4, 5, 8)):
    """Input, parameters and random factors."""
    x, params = base(model, shape)
    return x, params, noisy(jax.eval_shape(adapter.init, jax.random.key(2), params))


@lru_cache
def program(adapter, model):
    """The adapted model's output, the merged parameters, and the plain model's output with them, as one function."""

    def run(params, factors, x):
        merged = adapter.merge(params, factors)
        return adapter.apply(model, params, factors, x), merged, model.apply({"params": merged}, x)

    return jax.jit(run)


def run(adapter, model, params, factors, x):
    return program(adapter, model)(params, factors, x)[0]


@lru_cache
def plain_program(model):
    return jax.jit(lambda params, x: model.apply({"params": params}, x))


def run_plain(model, params, x):
    return plain_program(model)(params, x)


def zeros(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), tree)


MODELS = {"plain": Plain(), "scanned": Scanned()}
ADAPTERS = {
    "hut": Adapter(HUT(rank=2), "all-linear"),
    "cyclic": Adapter(HUT(rank=4, spread="cyclic"), "all-linear", ranks={"join|split": 2}),
    "rank1": Adapter(HUT(rank=1, scale=False, shift=False), ["up$", "join$"]),
    "full": Adapter(Full(), exclude="bias$"),
}
QUICK = [("plain", "full"), ("plain", "rank1"), ("scanned", "cyclic")]


@pytest.mark.parametrize(
    ("model", "adapter"),
    [
        pytest.param(
            MODELS[one], ADAPTERS[other], id=f"{one}-{other}", marks=[pytest.mark.full] * ((one, other) not in QUICK)
        )
        for one in MODELS
        for other in ADAPTERS
    ],
)
def test_merged_equals_intercepted_and_zero_factors_are_the_base_to_the_bit(model, adapter):
    x, params, factors = setup(model, adapter)
    plain = run_plain(model, params, x)
    adapted, _, merged = program(adapter, model)(params, factors, x)
    assert np.abs(adapted - plain).max() > 0.05
    np.testing.assert_allclose(adapted, merged, rtol=1e-5, atol=1e-5)

    output, kept, _ = program(adapter, model)(params, zeros(factors), x)
    np.testing.assert_array_equal(output, plain)
    assert jax.tree.structure(kept) == jax.tree.structure(params)
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(kept), strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@pytest.mark.parametrize(
    "adapter",
    [pytest.param(own, id=name, marks=[pytest.mark.full] * (name != "cyclic")) for name, own in ADAPTERS.items()],
)
def test_a_scan_equals_its_layers_one_by_one(adapter):
    x, params, factors = setup(Scanned(), adapter)
    got, expected = run(adapter, Scanned(), params, factors, x), x
    for layer in range(2):
        one = partial(jax.tree.map, lambda leaf, layer=layer: np.asarray(leaf)[layer])
        expected, _ = run(adapter, Block(), one(params["layers"]), one(factors["layers"]), expected)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_vmap_over_factors_is_one_call_each(model):
    adapter = ADAPTERS["hut"]
    x, params, one = setup(model, adapter)
    two = jax.tree.map(lambda leaf: -np.asarray(leaf), one)
    stacked = jax.tree.map(lambda a, b: np.stack([a, b]), one, two)
    got = jax.jit(jax.vmap(lambda factors: adapter.apply(model, params, factors, x)))(stacked)
    expected = np.stack([run(adapter, model, params, factors, x) for factors in (one, two)])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_gradient_through_the_interceptor_is_that_through_merge(model):
    adapter = ADAPTERS["cyclic"]
    x, params, factors = setup(model, adapter)

    def through_apply(factors):
        return jnp.sum(adapter.apply(model, params, factors, x) ** 2)

    def through_merge(factors):
        return jnp.sum(model.apply({"params": adapter.merge(params, factors)}, x) ** 2)

    got, expected = jax.jit(lambda factors: [jax.grad(way)(factors) for way in (through_apply, through_merge)])(factors)
    assert jax.tree.structure(got) == jax.tree.structure(factors)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.full
def test_a_bf16_base_stays_bf16_and_close():
    model, adapter = Plain(), ADAPTERS["hut"]
    x, params, factors = setup(model, adapter)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    got, merged, _ = program(adapter, model)(half, factors, x.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(got), run(adapter, model, params, factors, x), atol=0.3, rtol=0.1)


def test_a_layer_may_be_called_by_keyword():
    class ByKeyword(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="hidden")(inputs=x)

    adapter = Adapter(HUT(rank=2), "hidden")
    x, params, factors = setup(ByKeyword(), adapter)
    adapted, _, merged = program(adapter, ByKeyword())(params, factors, x)
    np.testing.assert_allclose(adapted, merged, rtol=1e-5, atol=1e-5)


def test_the_factor_tree_mirrors_the_modules():
    _, _, factors = setup(Scanned(), ADAPTERS["hut"])
    assert jax.tree.map(jnp.shape, factors) == {
        "layers": {
            "up": {"a": (2, 8, 2), "b": (2, 2, 12), "g": (2, 12), "s": (2, 12)},
            "split": {"a": (2, 12, 2), "b": (2, 2, 12), "g": (2, 12), "s": (2, 12)},
            "join": {"a": (2, 12, 2), "b": (2, 2, 8), "g": (2, 8), "s": (2, 8)},
        }
    }


def test_factors_of_another_model_are_refused():
    adapter = ADAPTERS["hut"]
    x, params, factors = setup(Plain(), adapter)
    _, _, other = setup(Scanned(), adapter)
    with pytest.raises(UserError, match=r"factor layers/join/a belongs to no target"):
        adapter.apply(Plain(), params, other, x)
    without = {"block_0": factors["block_0"]}
    with pytest.raises(UserError, match=r"factor block_1/.* is missing; did you mean 'block_0"):
        adapter.apply(Plain(), params, without, x)
    with pytest.raises(UserError, match=r"factor block_0/.* has shape .*; its kernel wants"):
        adapter.merge(params, setup(Plain(), Adapter(HUT(rank=4), "all-linear"))[2])


@pytest.mark.parametrize(
    "transform", [HUT(rank=1), HUT(rank=2), pytest.param(LoRA(rank=2), marks=pytest.mark.full)], ids=str
)
def test_input_axes_are_read_in_the_modules_order(transform):
    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = [(-1, -2), (1, 2), (2, 1), (1, 3), 1]
            return [nn.DenseGeneral(6, axis=axis, name=f"head_{i}")(x) for i, axis in enumerate(axes)]

    adapter = Adapter(transform, "head")
    x, params, factors = setup(Heads(), adapter, (2, 4, 4, 4))
    plain = run_plain(Heads(), params, x)
    for one, other in zip(run(adapter, Heads(), params, zeros(factors), x), plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    adapted, _, merged = program(adapter, Heads())(params, factors, x)
    for one, other, base in zip(adapted, merged, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
        assert np.abs(one - base).max() > 0.1


@pytest.mark.parametrize(
    "transform",
    [
        HUT(rank=2),
        *(pytest.param(one, marks=pytest.mark.full) for one in (HUT(rank=1), IA3(), SSF(), DoRA(rank=2))),
    ],
    ids=str,
)
def test_factors_in_bf16_lose_none_of_their_digits(transform):
    adapter = Adapter(transform, "all-linear")
    x, params, factors = setup(Plain(), adapter)
    half = jax.tree.map(lambda leaf: (0.01 * np.asarray(leaf)).astype(jnp.bfloat16), factors)
    whole = jax.tree.map(lambda leaf: leaf.astype(np.float32), half)
    one, other = (program(adapter, Plain())(params, factors, x) for factors in (half, whole))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_factors_are_floats():
    adapter = Adapter(HUT(rank=2), "up")
    _, params, factors = setup(Plain(), adapter)
    whole = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.int32), factors)
    with pytest.raises(UserError, match=r"factor block_0/up/a is int32, and factors are floats"):
        adapter.merge(params, whole)


def test_a_models_other_variables_are_passed_on():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(4, name="hidden")(x)
            return nn.BatchNorm(use_running_average=True, name="norm")(y)

    adapter = Adapter(HUT(rank=2), "hidden")
    x, params, factors = setup(Normed(), adapter, (3, 8))
    stats = {"batch_stats": {"norm": {"mean": np.full(4, 0.5, np.float32), "var": np.full(4, 1.5, np.float32)}}}

    @jax.jit
    def both(params, factors):
        got = adapter.apply(Normed(), params, factors, x, collections=stats)
        return got, Normed().apply({"params": adapter.merge(params, factors), **stats}, x)

    np.testing.assert_allclose(*both(params, factors), rtol=1e-5, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("transform", [HUT(rank=2), HUT(rank=1), HiRA(rank=2), LoRA(rank=2)], ids=str)
def test_parts_of_a_batch_with_a_kernel_each_change_nothing(model, transform):
    adapter = Adapter(transform, "up$|join$|split$")
    x, params, factors = setup(MODELS[model], adapter)

    def loss(factors, shards):
        y = adapter.apply(MODELS[model], params, factors, x, shards=shards)
        return jnp.sum(y**2), y

    # Three parts do not divide the four rows, which are then one part.
    @jax.jit
    def run(factors):
        gradients = [jax.value_and_grad(loss, has_aux=True)(factors, shards) for shards in (1, 2)]
        return gradients, loss(factors, 3)[1]

    (((_, wanted), gradient), ((_, got), parts)), of_three = run(factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), parts, gradient)
    for one in (got, of_three):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-5)


def test_a_lone_vector_is_not_taken_for_a_batch():
    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6, name="dense")(x)

    adapter = Adapter(HUT(rank=2), "all-linear")
    x, params, factors = setup(Wrapped(), adapter, (8,))
    one, two = jax.jit(
        lambda factors: [adapter.apply(Wrapped(), params, factors, x, shards=shards) for shards in (1, 2)]
    )(factors)
    np.testing.assert_allclose(two, one, rtol=1e-6)


class Switched(nn.Module):
    """Each method has one of the arguments that switch dropout on or off; `plain` has none."""

    def by_deterministic(self, x, deterministic=None): ...

    def by_train(self, x, train=None): ...

    def by_training(self, x, training=None): ...

    def plain(self, x): ...


@pytest.mark.parametrize(("name", "acts"), [("deterministic", False), ("train", True), ("training", True)])
def test_dropout_acts_as_the_models_own_argument_says(name, acts):
    method, rngs = f"by_{name}", {"rngs": {"dropout": None}}
    assert dropout_acts(Switched(), method, (0,), {name: acts, **rngs})
    assert not dropout_acts(Switched(), method, (0,), {name: not acts, **rngs})
    assert not dropout_acts(Switched(), method, (0,), {name: not acts})
    with pytest.raises(UserError, match="the adapter has dropout, which acts here"):
        dropout_acts(Switched(), method, (0,), {name: acts})
    for undecided in (method, "plain"):
        assert dropout_acts(Switched(), undecided, (0,), rngs)
        assert not dropout_acts(Switched(), undecided, (0,), {})
