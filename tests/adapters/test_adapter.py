"""The adapter and its interceptor on a Linen model that is not ours."""

import json
from functools import partial
from operator import itemgetter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, IA3, SSF, Adapter, DoRA, Full, HiRA, LoRA, UserError


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
    """The same block three times, as one scan."""

    collections: tuple = ("params", "adapter")

    @nn.compact
    def __call__(self, x):
        axes = {name: 0 for name in self.collections}
        scan = nn.scan(nn.remat(Block), variable_axes=axes, split_rngs={"params": True}, length=3)
        return scan(name="layers")(x, None)[0]


def setup(model, adapter, size=0.3):
    """Input, parameters with every bias set, and random factors."""
    x = noisy(np.zeros((2, 5, 8)), 1)
    params = noisy(jax.jit(model.init)(jax.random.key(1), x)["params"], 0.1)
    factors = noisy(jax.jit(adapter.init)(jax.random.key(2), params), size)
    return x, params, factors


def noisy(tree, size):
    random = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + size * random.standard_normal(leaf.shape), jnp.float32), tree)


def run(adapter, model, params, factors, x):
    return jax.jit(lambda params, factors, x: adapter.apply(model, params, factors, x))(params, factors, x)


def run_plain(model, params, x):
    return jax.jit(model.apply)({"params": params}, x)


MODELS = [Plain(), Scanned()]
ADAPTERS = [
    Adapter(HUT(rank=2), "all-linear"),
    Adapter(HUT(rank=4, spread="cyclic"), "all-linear", ranks={"join|split": 2}),
    Adapter(HUT(rank=1, scale=False, shift=False), ["up$", "join$"]),
    Adapter(Full(), exclude="bias$"),
]
both = pytest.mark.parametrize("model", MODELS, ids=["plain", "scanned"])
each = pytest.mark.parametrize("adapter", ADAPTERS, ids=["hut", "cyclic", "rank1", "full"])


@both
@each
def test_zero_factors_are_the_base_model_to_the_bit(model, adapter):
    x, params, factors = setup(model, adapter)
    zero = jax.tree.map(jnp.zeros_like, factors)
    np.testing.assert_array_equal(run(adapter, model, params, zero, x), run_plain(model, params, x))
    merged = jax.jit(adapter.merge)(params, zero)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(merged), strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@both
@each
def test_merged_equals_intercepted(model, adapter):
    x, params, factors = setup(model, adapter)
    base = run_plain(model, params, x)
    adapted = run(adapter, model, params, factors, x)
    merged = run_plain(model, jax.jit(adapter.merge)(params, factors), x)
    assert jnp.abs(adapted - base).max() > 0.05
    np.testing.assert_allclose(adapted, merged, rtol=1e-5, atol=1e-5)


@each
def test_a_scan_equals_its_layers_one_by_one(adapter):
    model = Scanned()
    x, params, factors = setup(model, adapter)
    got, expected = run(adapter, model, params, factors, x), x
    for layer in range(3):
        one = partial(jax.tree.map, itemgetter(layer))
        expected, _ = run(adapter, Block(), one(params["layers"]), one(factors["layers"]), expected)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@both
def test_vmap_over_factors_is_one_call_each(model):
    adapter = ADAPTERS[0]
    x, params, one = setup(model, adapter)
    two = jax.tree.map(lambda leaf: -leaf, one)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)
    got = jax.jit(jax.vmap(lambda factors: adapter.apply(model, params, factors, x)))(stacked)
    expected = jnp.stack([run(adapter, model, params, factors, x) for factors in (one, two)])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@both
def test_the_gradient_through_the_interceptor_is_that_through_merge(model):
    adapter = ADAPTERS[1]
    x, params, factors = setup(model, adapter)

    def through_apply(factors):
        return jnp.sum(adapter.apply(model, params, factors, x) ** 2)

    def through_merge(factors):
        return jnp.sum(model.apply({"params": adapter.merge(params, factors)}, x) ** 2)

    got, expected = jax.jit(jax.grad(through_apply))(factors), jax.jit(jax.grad(through_merge))(factors)
    assert jax.tree.structure(got) == jax.tree.structure(factors)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_bf16_base_stays_bf16_and_close():
    model, adapter = Plain(), ADAPTERS[0]
    x, params, factors = setup(model, adapter)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    merged = adapter.merge(half, factors)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    got = run(adapter, model, half, factors, x.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), run(adapter, model, params, factors, x), atol=0.3, rtol=0.1)


def test_a_layer_may_be_called_by_keyword():
    class ByKeyword(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="hidden")(inputs=x)

    adapter = Adapter(HUT(rank=2), "hidden")
    x, params, factors = setup(ByKeyword(), adapter)
    merged = run_plain(ByKeyword(), adapter.merge(params, factors), x)
    np.testing.assert_allclose(run(adapter, ByKeyword(), params, factors, x), merged, rtol=1e-5, atol=1e-5)


def test_the_factor_tree_mirrors_the_modules():
    model = Scanned()
    _, _, factors = setup(model, ADAPTERS[0])
    assert jax.tree.map(jnp.shape, factors) == {
        "layers": {
            "up": {"a": (3, 8, 2), "b": (3, 2, 12), "g": (3, 12), "s": (3, 12)},
            "split": {"a": (3, 12, 2), "b": (3, 2, 12), "g": (3, 12), "s": (3, 12)},
            "join": {"a": (3, 12, 2), "b": (3, 2, 8), "g": (3, 8), "s": (3, 8)},
        }
    }


def test_the_report_shows_what_matched_and_the_totals():
    adapter = Adapter(HUT(rank=4), "up$", ranks={"block_1": 2})
    _, params, factors = setup(Plain(), adapter)
    lines = adapter.report(params).splitlines()
    assert " ".join(lines[1].split()) == "block_0/up [8, 12] a[8, 4] b[4, 12] g[12] s[12] 104"
    assert " ".join(lines[2].split()) == "block_1/up [8, 12] a[8, 2] b[2, 12] g[12] s[12] 64"
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert adapter.count(params).trainable == 168 == sum(leaf.size for leaf in jax.tree.leaves(factors))
    assert lines[3] == f"trainable 168 of {total:,} ({100 * 168 / total:.3f} %)"


def test_counting_needs_shapes_alone():
    shapes = jax.eval_shape(Plain().init, jax.random.key(0), jnp.ones((1, 2, 8)))["params"]
    assert ADAPTERS[0].count(shapes).trainable == 2 * (40 + 24 + 48 + 24 + 40 + 16)


def test_a_key_depends_on_the_path_alone():
    """Another target more does not change what a layer starts from (for transformations that draw at random)."""
    from hut_jax.transforms.base import Transform

    class Random(Transform):
        name = "random"

        def init(self, key, kernel, bias):
            return {"r": jax.random.normal(key, kernel.shape)}

    _, params, _ = setup(Plain(), ADAPTERS[0])
    few = Adapter(Random(), "block_1/up").init(jax.random.key(0), params)
    many = Adapter(Random(), "all-linear").init(jax.random.key(0), params)
    np.testing.assert_array_equal(few["block_1"]["up"]["r"], many["block_1"]["up"]["r"])


def test_a_convolution_cannot_run_with_factors_but_merges():
    model, adapter = Plain(convolution=True), Adapter(HUT(rank=4), "conv")
    x, params, factors = setup(model, adapter)
    with pytest.raises(UserError, match=r"conv is a Conv: only nn.Dense .*merge"):
        adapter.apply(model, params, factors, x)
    assert jnp.abs(adapter.merge(params, factors)["conv"]["kernel"] - params["conv"]["kernel"]).max() > 0.1


def test_a_scan_without_an_axis_for_the_factors_is_refused():
    adapter = ADAPTERS[0]
    x, params, factors = setup(Scanned(), adapter)
    with pytest.raises(UserError, match=r'do not reach it.*variable_axes=\{"params": 0, "adapter": 0\}'):
        adapter.apply(Scanned(collections=("params",)), params, factors, x)


def test_a_kernel_that_is_used_but_never_called_is_refused():
    class Manual(nn.Module):
        @nn.compact
        def __call__(self, x):
            if self.is_initializing():
                return nn.Dense(8, name="hidden")(x)
            return x @ self.variables["params"]["hidden"]["kernel"]

    adapter = Adapter(HUT(rank=2), "hidden")
    x, params, factors = setup(Manual(), adapter)
    with pytest.raises(UserError, match=r"hidden has factors and was never called.*merge"):
        adapter.apply(Manual(), params, factors, x)


def test_the_axes_of_a_kernel_without_a_bias_must_be_said():
    class NoBias(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.DenseGeneral((2, 4), use_bias=False, name="heads")(x)

    hut = HUT(rank=2, shift=False)
    x = jnp.ones((3, 8))
    params = NoBias().init(jax.random.key(0), x)["params"]
    with pytest.raises(UserError, match=r"heads: cannot tell which axes .*layout="):
        Adapter(hut, "heads").init(jax.random.key(0), params)
    with pytest.raises(UserError, match=r"heads: layout 'io' does not fit a kernel of shape \[8, 2, 4\]"):
        Adapter(hut, "heads", layout={"heads": "io"}).init(jax.random.key(0), params)
    right = Adapter(hut, "heads", layout={"heads": "ioo"})
    assert right.init(jax.random.key(0), params)["heads"]["a"].shape == (8, 2)
    wrong = Adapter(hut, "heads", layout={"heads": "iio"})
    with pytest.raises(UserError, match=r"heads has 1 input axes, and its factors were laid out for 2"):
        wrong.apply(NoBias(), params, wrong.init(jax.random.key(0), params), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "upp$"}, "target pattern 'upp\\$' matches no path; did you mean 'block_0/up'"),
        ({"targets": "("}, "'\\(' is not a regular expression"),
        ({"targets": "up", "exclude": "dwn"}, "exclude pattern 'dwn' matches no path"),
        ({"targets": "up", "exclude": "block"}, "removes every path"),
        ({}, "no default targets fit this model"),
        ({"targets": "up", "ranks": {"join": 2}}, "'join' in ranks= matches no target"),
        ({"targets": "up", "layout": {"join": "iio"}}, "'join' in layout= matches no target"),
        ({"targets": "up", "ranks": {"sideways": 2}}, "'sideways' in ranks= matches no target"),
        ({"targets": "up", "ranks": {"up": 3}}, "block_0/up: HUT: rank 3 does not divide .*: 2, 4"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(arguments, message):
    _, params, _ = setup(Plain(), ADAPTERS[0])
    with pytest.raises(UserError, match=message):
        Adapter(HUT(rank=2), **arguments).init(jax.random.key(0), params)


def test_factors_of_another_model_are_refused():
    adapter = ADAPTERS[0]
    x, params, factors = setup(Plain(), adapter)
    _, _, other = setup(Scanned(), adapter)
    with pytest.raises(UserError, match=r"factor layers/join/a belongs to no target"):
        adapter.apply(Plain(), params, other, x)
    without = {"block_0": factors["block_0"]}
    with pytest.raises(UserError, match=r"factor block_1/.* is missing; did you mean 'block_0"):
        adapter.apply(Plain(), params, without, x)
    with pytest.raises(UserError, match=r"factor block_0/.* has shape .*; its kernel wants"):
        adapter.merge(params, Adapter(HUT(rank=4), "all-linear").init(jax.random.key(0), params))


@pytest.mark.parametrize("axis", [(-1, -2), (1, 2), (2, 1), (1, 3), 1])
@pytest.mark.parametrize("transform", [HUT(rank=1), HUT(rank=2), LoRA(rank=2)], ids=["rank1", "hut", "lora"])
def test_input_axes_are_read_in_the_modules_order(axis, transform):
    model = nn.DenseGeneral(6, axis=axis)
    x = noisy(np.zeros((2, 4, 4, 4)), 1)

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.DenseGeneral(6, axis=axis, name="hidden")(x)

    params = noisy({"hidden": model.init(jax.random.key(0), x)["params"]}, 0.1)
    adapter = Adapter(transform, "hidden")
    zero = adapter.init(jax.random.key(1), params)
    np.testing.assert_allclose(
        adapter.apply(Wrapped(), params, zero, x), Wrapped().apply({"params": params}, x), rtol=1e-5, atol=1e-5
    )
    factors = noisy(zero, 0.3)
    merged = Wrapped().apply({"params": adapter.merge(params, factors)}, x)
    np.testing.assert_allclose(adapter.apply(Wrapped(), params, factors, x), merged, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("transform", [HUT(rank=1), HUT(rank=2), IA3(), SSF(), DoRA(rank=2)], ids=lambda t: t.name)
def test_factors_in_bf16_lose_none_of_their_digits(transform):
    adapter = Adapter(transform, "all-linear")
    x, params, factors = setup(Plain(), adapter)
    half = jax.tree.map(lambda leaf: (0.01 * leaf).astype(jnp.bfloat16), factors)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    np.testing.assert_array_equal(run(adapter, Plain(), params, half, x), run(adapter, Plain(), params, whole, x))
    merged, expected = adapter.merge(params, half), adapter.merge(params, whole)
    jax.tree.map(np.testing.assert_array_equal, merged, expected)


def test_factors_are_floats():
    adapter = Adapter(HUT(rank=2), "up")
    _, params, factors = setup(Plain(), adapter)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), factors)
    with pytest.raises(UserError, match=r"factor block_0/up/a is int32, and factors are floats"):
        adapter.merge(params, whole)


def test_a_models_other_variables_are_passed_on():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(4, name="hidden")(x)
            return nn.BatchNorm(use_running_average=True, name="norm")(y)

    adapter = Adapter(HUT(rank=2), "hidden")
    x = noisy(np.zeros((3, 8)), 1)
    variables = Normed().init(jax.random.key(0), x)
    stats = {"batch_stats": jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])}
    factors = noisy(adapter.init(jax.random.key(1), variables["params"]), 0.3)
    got = adapter.apply(Normed(), variables["params"], factors, x, collections=stats)
    merged = adapter.merge(variables["params"], factors)
    np.testing.assert_allclose(got, Normed().apply({"params": merged, **stats}, x), rtol=1e-5, atol=1e-5)


def test_what_is_no_dense_layer_by_its_bias_is_refused():
    """As a module that keeps its kernel `[out, in]`."""
    params = {"turned": {"kernel": jnp.ones((24, 8)), "bias": jnp.ones(24)}}
    with pytest.raises(UserError, match=r"turned: its bias \[24\] does not fit the outputs of its kernel \[24, 8\]"):
        Adapter(HUT(rank=2), "turned").sites(params)


def test_an_adapter_is_a_value():
    one = Adapter(HUT(rank=2), "up", ranks={"block_0": 4})
    same = Adapter(HUT(rank=2), ["up"], ranks=[("block_0", 4)])
    assert one == same
    assert hash(one) == hash(same)
    assert one != Adapter(HUT(rank=4), "up")


@pytest.mark.parametrize(
    "adapter",
    [
        Adapter(HUT(rank=2)),
        Adapter(LoRA(rank=2, alpha=3.0, rs=True), "up", exclude="block_0", also_train=["head", "norm"]),
        Adapter(HUT(rank=2), "all-linear", ranks={"block_0": 4, "up": 1}, layout={"^layers/": "lio"}),
        Adapter(Full(), ""),
    ],
    ids=lambda adapter: adapter.transform.name,
)
def test_an_adapter_is_rebuilt_from_its_description(adapter):
    description = adapter.to_dict()
    assert list(description) == ["transform", "targets", "exclude", "ranks", "layout", "also_train"]
    assert Adapter.from_dict(description) == adapter
    assert Adapter.from_dict(json.loads(json.dumps(description)) | {"base": "is not the adapter's"}) == adapter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": None}, "None are not pairs of a pattern and a value"),
        ({"targets": "("}, "is not a regular expression"),
        ({"transform": {"rank": 2}}, "it names no transformation"),
        ({"transform": "hut"}, "it names no transformation"),
        ({"transform": {"name": "hat"}}, "unknown transformation 'hat'; did you mean 'hut'"),
        ({"transform": {"name": "hut", "rnk": 2}}, "hut has no setting 'rnk'; did you mean 'rank'"),
    ],
)
def test_a_wrong_description_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        Adapter.from_dict(Adapter(HUT(rank=2)).to_dict() | change)
    with pytest.raises(UserError, match="it names no transformation"):
        Adapter.from_dict({})


@pytest.mark.parametrize("missing", ["targets", "exclude", "ranks", "layout", "also_train"])
def test_a_field_that_a_description_lacks_takes_its_default(missing):
    fields = {"targets": "up", "exclude": "block_0", "ranks": {"up": 1}, "layout": {"up": "io"}, "also_train": "head"}
    description = Adapter(HUT(rank=2), **fields).to_dict()
    del description[missing], fields[missing]
    assert Adapter.from_dict(description) == Adapter(HUT(rank=2), **fields)


@pytest.mark.parametrize("transform", [HUT(rank=2), HUT(rank=1), HiRA(rank=2), LoRA(rank=2)], ids=str)
@pytest.mark.parametrize("model", MODELS, ids=["plain", "scanned"])
def test_parts_of_a_batch_with_a_kernel_each_change_nothing(model, transform):
    adapter = Adapter(transform, "up$|join$|split$")
    x, params, factors = setup(model, adapter)
    x = jnp.concatenate([x, 2 * x])

    def both(factors, shards):
        y = adapter.apply(model, params, factors, x, shards=shards)
        return jnp.sum(y**2), y

    (_, wanted), gradient = jax.jit(jax.value_and_grad(both, has_aux=True), static_argnums=1)(factors, 1)
    for shards in (2, 4, 3):  # 3 does not divide the rows, and is let be
        (_, got), parts = jax.jit(jax.value_and_grad(both, has_aux=True), static_argnums=1)(factors, shards)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), parts, gradient)


def test_a_lone_vector_is_not_taken_for_a_batch():
    adapter = Adapter(HUT(rank=2), "all-linear")
    dense = nn.Dense(6)
    params = noisy(dense.init(jax.random.key(0), jnp.zeros(8))["params"], 0.1)
    factors = noisy(adapter.init(jax.random.key(1), {"dense": params}), 0.3)

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6, name="dense")(x)

    x = jnp.arange(8.0)
    one, two = (adapter.apply(Wrapped(), {"dense": params}, factors, x, shards=shards) for shards in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-6)
