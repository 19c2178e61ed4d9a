"""An NNX model with factors: what NNX's own functions find in it, and what they change."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hut_jax.nnx
from hut_jax import HUT, Adapter, BitFit, Full, LoRA, UserError
from hut_jax.core.any_tree import flatten_any
from hut_jax.nnx import Factors
from tests.nnx.zoo import Block, LinenBlock, Scanned, Stateful, Tied, X, floats

HUT2 = Adapter(HUT(rank=2), "up|down")


class Two(nnx.Module):
    """Two blocks, and a head."""

    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def model():
    return Two(nnx.Rngs(0))


def noisy(tree, seed=1):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(0.3 * random.standard_normal(leaf.shape)), tree)


def adapted_with_noise(model, adapter=HUT2):
    adapted = hut_jax.nnx.adapt(model, adapter, rngs=nnx.Rngs(1))
    hut_jax.nnx.set_factors(adapted, noisy(hut_jax.nnx.factors(adapted)))
    return adapted


def test_factors_are_variables_of_their_own_and_the_base_keeps_its_paths_and_arrays(model):
    adapted = hut_jax.nnx.adapt(model, HUT2, rngs=nnx.Rngs(1))
    assert isinstance(adapted.blocks[0].up, nnx.Linear)
    assert type(model.blocks[0].up) is nnx.Linear
    assert not jax.tree.leaves(nnx.state(model, Factors))
    _, factors, base, rest = nnx.split(adapted, Factors, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    wanted = HUT2.init(jax.random.key(0), nnx.state(model, nnx.Param))
    assert {path: leaf.shape for path, leaf in flatten_any(factors).items()} == {
        path: leaf.shape for path, leaf in flatten_any(wanted).items()
    }
    own = flatten_any(nnx.state(model))
    assert flatten_any(base).keys() == own.keys()
    assert all(leaf is own[path] for path, leaf in flatten_any(base).items())


def test_only_factors_have_a_gradient_and_the_optimiser_scales_it_as_for_linen(model):
    adapted, adapter = adapted_with_noise(model), HUT2
    optimizer = nnx.Optimizer(adapted, adapter.optimizer(optax.sgd, 0.5, params=model), wrt=Factors)

    @nnx.jit
    def step(model, optimizer):
        gradient = nnx.grad(lambda m: jnp.sum(m(X) ** 2), argnums=nnx.DiffState(0, Factors))(model)
        optimizer.update(model, gradient)
        return gradient

    before, base = hut_jax.nnx.factors(adapted), flatten_any(nnx.state(adapted, nnx.Param))
    gradient = flatten_any(step(adapted, optimizer))
    after = flatten_any(hut_jax.nnx.factors(adapted))
    multipliers = flatten_any(jax.tree.map(jnp.asarray, adapter.learning_rate_multipliers(model)))
    for path, start in flatten_any(before).items():
        np.testing.assert_allclose(after[path], start - 0.5 * multipliers[path] * gradient[path], rtol=1e-4, atol=1e-5)
    for path, leaf in flatten_any(nnx.state(adapted, nnx.Param)).items():
        np.testing.assert_array_equal(leaf, base[path])
    assert {float(m) for m in multipliers.values()} == {1.0, np.float32(0.1)}


@pytest.mark.full
def test_nnx_updates_copies_and_replaces_the_base_and_not_what_is_read(model):
    adapted = adapted_with_noise(model)
    twice = copy.deepcopy(adapted)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, nnx.state(adapted, nnx.Param))
    nnx.update(twice, doubled)
    up, other = adapted.blocks[0].up, twice.blocks[0].up
    np.testing.assert_allclose(other.kernel[...], 2 * up.kernel[...], rtol=1e-6)
    np.testing.assert_array_equal(nnx.state(other)["kernel"][...], 2 * nnx.state(up)["kernel"][...])
    other.kernel = nnx.Param(jnp.zeros((4, 8)))
    assert not other.kernel[...].any()
    with pytest.raises(UserError, match="read adapted, as U"):
        other.kernel[...] = jnp.ones((4, 8))
    graph, state = nnx.split(adapted)
    np.testing.assert_array_equal(
        nnx.merge(graph, state).blocks[1].down.kernel[...], adapted.blocks[1].down.kernel[...]
    )
    popped = nnx.pop(nnx.clone(adapted), Factors)
    assert flatten_any(popped).keys() == flatten_any(hut_jax.nnx.factors(adapted)).keys()


def test_a_merged_model_is_a_plain_one_and_the_base_comes_back_to_the_bit(model):
    adapted = adapted_with_noise(model)
    merged, base = hut_jax.nnx.merge(adapted), hut_jax.nnx.base(adapted)
    for plain in (merged, base):
        assert nnx.graphdef(plain) == nnx.graphdef(model)
    state = nnx.state(model, nnx.Param)
    by_state = HUT2.merge(state, nnx.state(adapted, Factors))
    for path, leaf in flatten_any(by_state).items():
        np.testing.assert_allclose(leaf, flatten_any(merged)[path], rtol=1e-6, atol=1e-7)
    assert isinstance(by_state, nnx.State)
    assert flatten_any(merged)["head", "kernel"] is flatten_any(model)["head", "kernel"]
    back = flatten_any(HUT2.unmerge(by_state, HUT2.kept(state)))
    for path, leaf in flatten_any(base).items():
        assert leaf is flatten_any(model)[path]
        assert back[path] is leaf


def test_a_tied_kernel_has_one_set_of_factors_and_stays_tied_when_merged():
    model = Tied(nnx.Rngs(0))
    adapted = adapted_with_noise(model, Adapter(LoRA(rank=2), "embedding"))
    assert len(jax.tree.leaves(nnx.state(adapted, Factors))) == 2
    merged = hut_jax.nnx.merge(adapted)
    np.testing.assert_array_equal(merged.embed.embedding[...], adapted.embed.embedding[...])


@pytest.mark.full
def test_parameters_of_any_shape_train_in_full_or_as_biases(model):
    for transform, targets in ((BitFit(), None), (Full(), "head")):
        adapter = Adapter(transform, targets)
        adapted = adapted_with_noise(model, adapter)
        np.testing.assert_allclose(adapted(X), hut_jax.nnx.merge(adapted)(X), rtol=1e-5, atol=1e-5)
        assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(adapted, Factors))) == adapter.count(model).trainable
    also = Adapter(HUT(rank=2), "up", also_train="head")
    adapted = adapted_with_noise(model, also)
    assert np.abs(adapted.head.kernel[...] - model.head.kernel[...]).max() > 0.1


@pytest.mark.full
def test_dropout_of_the_transformation_acts_in_training_alone(model):
    adapter = Adapter(LoRA(rank=2, dropout=0.5), "up|down")
    adapted = hut_jax.nnx.adapt(model, adapter, rngs=nnx.Rngs(params=1, dropout=2))
    hut_jax.nnx.set_factors(adapted, noisy(hut_jax.nnx.factors(adapted)))
    one, two = adapted(X), adapted(X)
    assert np.abs(one - two).max() > 1e-3
    adapted.eval()
    np.testing.assert_allclose(adapted(X), hut_jax.nnx.merge(adapted)(X), rtol=1e-5, atol=1e-5)
    scanned = hut_jax.nnx.adapt(Scanned(nnx.Rngs(0)), adapter, rngs=nnx.Rngs(params=1, dropout=2))
    hut_jax.nnx.set_factors(scanned, noisy(hut_jax.nnx.factors(scanned)))
    assert np.abs(scanned(X) - scanned(X)).max() > 1e-3
    convolution = hut_jax.nnx.adapt(Stateful(nnx.Rngs(0)), Adapter(LoRA(dropout=0.5), "conv"), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"conv/kernel is read as a parameter, where .*dropout cannot act"):
        convolution(X)


def test_a_scan_that_takes_layers_of_the_base_alone_is_refused():
    adapted = hut_jax.nnx.adapt(Scanned(nnx.Rngs(0)), HUT2, rngs=nnx.Rngs(0))

    def run(axes):
        scan = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, nnx.StateAxes(axes)), out_axes=nnx.Carry)
        return scan(X, adapted.layers)

    np.testing.assert_allclose(run({(nnx.Param, Factors): 0, ...: None}), adapted(X), rtol=1e-6)
    with pytest.raises(UserError, match=r"layers/up/kernel has 2 axes here and its factor a 3.*nnx.StateAxes"):
        run({nnx.Param: 0, ...: None})


def test_mistakes_are_one_line(model):
    rngs = nnx.Rngs(0)
    adapted = hut_jax.nnx.adapt(model, HUT2, rngs=rngs)
    for call, match in (
        (lambda: hut_jax.nnx.adapt(HUT2, model, rngs=rngs), r"model= is of type Adapter.*the order is"),
        (lambda: hut_jax.nnx.adapt(model, HUT(), rngs=rngs), r"adapter= is of type HUT.*hut_jax.Adapter"),
        (lambda: hut_jax.nnx.adapt(LinenBlock(), HUT2, rngs=rngs), r"LinenBlock is a Linen model: use adapter.apply"),
        (lambda: hut_jax.nnx.adapt(adapted, HUT2, rngs=rngs), r"the model is adapted already: merge it first"),
        (lambda: hut_jax.nnx.adapt(model, HUT2), r"give rngs=nnx.Rngs\(0\)"),
        (lambda: hut_jax.nnx.merge(model), r"this Two has no factors: adapt it first"),
        (lambda: hut_jax.nnx.set_factors(adapted, {"up": {"a": X}}), r"factor blocks/0/down/a is only the model's"),
        (
            lambda: HUT2.apply(LinenBlock(), nnx.state(model), {}, X),
            r"params= is of NNX's type State, and LinenBlock is",
        ),
    ):
        with pytest.raises(UserError, match=match) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_factors_that_are_given_are_checked_and_taken(model):
    factors = noisy(HUT2.init(jax.random.key(0), model))
    adapted = hut_jax.nnx.adapt(model, HUT2, factors=factors)
    for path, leaf in flatten_any(hut_jax.nnx.factors(adapted)).items():
        np.testing.assert_array_equal(leaf, flatten_any(factors)[path])
    del factors["blocks"]["0"]
    with pytest.raises(UserError, match=r"factor blocks/0/down/a is missing"):
        hut_jax.nnx.adapt(model, HUT2, factors=factors)


def test_factors_are_sharded_as_the_axes_that_they_share_with_the_kernel():
    mesh = jax.make_mesh((1, 1), ("d", "k"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("d", "k"))
        model = nnx.Linear(4, 6, kernel_init=init, rngs=nnx.Rngs(0))
        adapted = hut_jax.nnx.adapt(model, Adapter(HUT(rank=2), "all-linear"), rngs=nnx.Rngs(0))
    specs = {name: factor.out_sharding for name, factor in adapted.adapter_factors.items()}
    assert specs == {"a": ("d", None), "b": (None, "k"), "g": ("k",), "s": ("k",)}


def test_a_layout_is_told_by_the_modules_type():
    model = nnx.Einsum("btd,od->bto", (4, 4), rngs=nnx.Rngs(0))
    adapter = hut_jax.nnx.laid_out(Adapter(HUT(rank=1), "all-linear"), model)
    assert adapter.layout == (("^kernel$", "oi"),)
    adapted = hut_jax.nnx.adapt(model, Adapter(HUT(rank=1), "all-linear"), rngs=nnx.Rngs(0))
    factors = hut_jax.nnx.factors(adapted)
    factors["a"] = factors["a"].at[0].set(1.0)
    hut_jax.nnx.set_factors(adapted, factors)
    x = floats(1, 1, 4)
    np.testing.assert_allclose(adapted(x), model(x * np.float32([2, 1, 1, 1])), rtol=1e-6)


class ReadsPast(nnx.Module):
    """A model that takes a layer's kernel from the layer's state."""

    def __init__(self, rngs, how):
        self.layer, self.other = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.how = how

    def __call__(self, x, scale=1.0):
        x = self.layer(x) * scale
        if self.how == "state":
            return x @ nnx.state(self.layer)["kernel"][...]
        if self.how == "vars":
            return nnx.jit(lambda layer, x: x @ vars(layer)["kernel"])(self.layer, x)
        return nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, None), out_axes=nnx.Carry, length=2)(
            x, self.layer
        )


@pytest.mark.parametrize("how", ["state", "vars"])
def test_a_parameter_that_is_read_past_its_module_is_refused_when_the_model_is_called(how):
    model = ReadsPast(nnx.Rngs(0), how)
    adapted = hut_jax.nnx.adapt(model, Adapter(HUT(rank=2), "layer|other"), rngs=nnx.Rngs(0))
    for _ in range(2):
        with pytest.raises(UserError, match=r"layer/kernel is read past the module .* exclude it, or run the merged"):
            nnx.jit(lambda m, x: m(x))(adapted, X)
    other = hut_jax.nnx.adapt(model, Adapter(HUT(rank=2), "other"), rngs=nnx.Rngs(0))
    assert other(X).shape == X.shape


def test_a_model_that_hands_its_layers_on_is_not_taken_for_one_that_reads_past_them():
    adapted = adapted_with_noise(ReadsPast(nnx.Rngs(0), "scan"), Adapter(HUT(rank=2), "layer|other"))
    np.testing.assert_allclose(adapted(X, scale=2), hut_jax.nnx.merge(adapted)(X, scale=2), rtol=1e-5, atol=1e-5)
