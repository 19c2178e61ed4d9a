"""What every transformation promises, asked of each of them. One that is added must be added here too."""

import dataclasses
from functools import lru_cache, partial
from operator import itemgetter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from hut_jax import Adapter, UserError, combine, load_adapter, save_adapter
from hut_jax.adapters.files import CONFIG_FILE, WEIGHTS_FILE
from hut_jax.transforms import (
    HUT,
    IA3,
    SSF,
    TRANSFORMS,
    BitFit,
    DoRA,
    Full,
    HiRA,
    LayerNorm,
    LoHa,
    LoRA,
    LoRAPlus,
)
from hut_jax.transforms.base import Layer

SAMPLES = {
    "hut": HUT(rank=2),
    "hut-cyclic": HUT(rank=4, spread="cyclic"),
    "hut-rank1": HUT(rank=1),
    "lora": LoRA(rank=3, alpha=6.0),
    "lora-rs": LoRA(rank=3, rs=True),
    "lora_plus": LoRAPlus(rank=2, ratio=4.0),
    "dora": DoRA(rank=3, alpha=2.0),
    "hira": HiRA(rank=3),
    "loha": LoHa(rank=2),
    "ia3": IA3(feedforward="join$"),
    "ssf": SSF(),
    "bitfit": BitFit(),
    "layernorm": LayerNorm(),
    "full": Full(),
}
DENSE = {name: transform for name, transform in SAMPLES.items() if not transform.whole_leaves}

each = pytest.mark.parametrize("name", SAMPLES)
each_dense = pytest.mark.parametrize("name", DENSE)


def test_every_transformation_is_in_this_suite():
    assert {type(sample) for sample in SAMPLES.values()} == set(TRANSFORMS.values())
    assert {sample.name for sample in SAMPLES.values()} == set(DEFINITIONS) == set(TRANSFORMS)


# One kernel ------------------------------------------------------------------------------------------------------


def case(transform, d=8, k=12, *, dtype=jnp.float32, seed=0, size=0.5):
    """A kernel and bias with zeros of both signs among their entries, random factors, and an input."""
    random = np.random.default_rng(seed)
    kernel, bias = (random.standard_normal(shape) for shape in ((d, k), k))
    kernel[0, :2] = 0.0, -0.0
    kernel, bias = jnp.asarray(kernel, dtype), jnp.asarray(bias, dtype)
    zero = transform.init(jax.random.key(seed), kernel, bias)
    factors = {name: leaf + size * random.standard_normal(leaf.shape).astype(leaf.dtype) for name, leaf in zero.items()}
    return kernel, bias, zero, factors, jnp.asarray(random.standard_normal((2, 3, d)), dtype)


def dense(x, kernel, bias):
    y = jnp.dot(x, kernel, precision="highest")
    return y if bias is None else y + bias


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@each
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["fp32", "bf16"])
def test_what_init_gives_and_zero_are_the_identity_to_the_bit(name, dtype):
    transform = SAMPLES[name]
    kernel, bias, zero, _, x = case(transform, dtype=dtype)
    assert {leaf.dtype for leaf in zero.values()} == {jnp.dtype(jnp.float32)}
    forward = jax.jit(lambda x, kernel, bias, factors: transform.forward(Layer(dense, kernel, bias), x, factors))
    for factors in (zero, jax.tree.map(jnp.zeros_like, zero)):
        assert bits(jax.jit(transform.weight)(kernel, factors)) == bits(kernel)
        assert bits(transform.weight(kernel, factors)) == bits(kernel)
        if not transform.whole_leaves:
            assert bits(jax.jit(transform.merge)(kernel, bias, factors)) == bits((kernel, bias))
            assert bits(forward(x, kernel, bias, factors)) == bits(jax.jit(dense)(x, kernel, bias))


def _hut(w, bias, t, a, b, g, s):
    (d, k), r = w.shape, t.rank
    i, j = np.arange(d)[:, None], np.arange(k)[None]
    p, q = (i // (d // r), j // (k // r)) if t.spread == "block" else (i % r, j % r)
    return (1 + a[i, q]) * w * (1 + b[p, j]) * (1 + g), (1 + g) * bias + s


def _lora(w, bias, t, a, b):
    return w + t.alpha / (np.sqrt(t.rank) if t.rs else t.rank) * a @ b, bias


def _dora(w, bias, t, a, b, g):
    v = w + t.alpha / t.rank * a @ b
    return np.linalg.norm(w, axis=0) * (1 + g) * v / np.linalg.norm(v, axis=0), bias


DEFINITIONS = {
    "hut": _hut,
    "lora": _lora,
    "lora_plus": _lora,
    "dora": _dora,
    "hira": lambda w, bias, t, a, b: (w * (1 + a @ b), bias),
    "loha": lambda w, bias, t, a1, b1, a2, b2: (w + t.alpha / t.rank * (a1 @ b1) * (a2 @ b2), bias),
    "ia3": lambda w, bias, t, **f: (w * (1 + f["l"]), bias * (1 + f["l"])),
    "ssf": lambda w, bias, t, g, s: (w * (1 + g), bias * (1 + g) + s),
    "bitfit": lambda w, bias, t, d: (w + d, bias),
    "layernorm": lambda w, bias, t, d: (w + d, bias),
    "full": lambda w, bias, t, d: (w + d, bias),
}
"""Each transformation's formula, in float64, as its paper has it."""


@each
def test_merge_is_the_published_formula(name):
    transform = SAMPLES[name]
    kernel, bias, _, factors, _ = case(transform)
    wide = {key: np.asarray(leaf, np.float64) for key, leaf in factors.items()}
    w, b = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
    expected = DEFINITIONS[transform.name](w, b, transform, **wide)
    got = (
        (transform.weight(kernel, factors), bias) if transform.whole_leaves else transform.merge(kernel, bias, factors)
    )
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


@each_dense
@given(d=st.integers(1, 4), k=st.integers(1, 4), seed=st.integers(0, 99), size=st.floats(0, 2), half=st.booleans())
@settings(max_examples=12, deadline=None)
def test_a_merged_layer_is_the_adapted_one(name, d, k, seed, size, half):
    transform = DENSE[name]
    dtype = jnp.bfloat16 if half else jnp.float32
    kernel, bias, _, factors, x = case(transform, 4 * d, 4 * k, dtype=dtype, seed=seed, size=size)
    expected = transform.forward(Layer(dense, kernel, bias), x, factors)
    got = dense(x, *transform.merge(kernel, bias, factors))
    assert got.dtype == expected.dtype == dtype
    # Rounding W and rounding y are not the same: in bf16 each entry of a sum may be off by half a step.
    largest = float(jnp.abs(expected).max()) + 1
    np.testing.assert_allclose(
        np.asarray(got, np.float32),
        np.asarray(expected, np.float32),
        rtol=0,
        atol=largest * (4 * 2**-8 if half else 1e-5),
    )


@each
def test_gradients_are_those_of_finite_differences_in_float64(name):
    transform = SAMPLES[name]
    if hasattr(transform, "detach"):
        transform = dataclasses.replace(transform, detach=False)  # a norm held constant is no derivative
    with jax.enable_x64():
        kernel, bias, _, factors, x = case(transform, dtype=jnp.float64)
        factors = {key: jnp.asarray(leaf, jnp.float64) for key, leaf in factors.items()}

        def loss(factors):
            factors = jax.tree.map(jnp.asarray, factors)  # the numerical side passes arrays of numpy
            if transform.whole_leaves:
                return jnp.sum(jnp.sin(transform.weight(kernel, factors)))
            return jnp.sum(jnp.sin(transform.forward(Layer(dense, kernel, bias), x, factors)))

        assert loss(factors).dtype == jnp.float64
        assert jnp.abs(jax.grad(loss)(factors)[next(iter(factors))]).max() > 1e-3
        written_out = isinstance(transform, HUT) and transform.rank > 1  # the gradient, so there is no other derivative
        modes = ["rev"] if written_out else ["rev", "fwd"]
        check_grads(loss, (factors,), order=1, modes=modes, rtol=1e-4, atol=1e-4)


# A model ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A norm, and every kind of dense kernel: a matrix, several output axes, several input axes."""

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm(name="norm")(x)
        y = nn.Dense(12, name="up")(y)
        y = nn.DenseGeneral((3, 4), name="split")(nn.tanh(y))
        return x + nn.DenseGeneral(8, axis=(-2, -1), name="join")(y), None


class Scanned(nn.Module):
    """Three of them, recomputed in the backward pass, as one scan."""

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            nn.remat(Block), variable_axes={"params": 0, "adapter": 0}, split_rngs={"params": True}, length=3
        )
        return scan(name="layers")(x, None)[0]


MODEL = Scanned()


def noisy(tree, size, seed=7):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf + size * random.standard_normal(leaf.shape), jnp.float32), tree)


@lru_cache
def parameters():
    x = noisy(jnp.zeros((4, 5, 8)), 1)
    return x, noisy(jax.jit(MODEL.init)(jax.random.key(1), x)["params"], 0.1)


def adapted(name):
    """An adapter with random factors, on the scanned model."""
    adapter = Adapter(SAMPLES[name], "all-linear")
    return adapter, noisy(jax.jit(adapter.init)(jax.random.key(2), parameters()[1]), 0.3)


@each
def test_a_scan_of_recomputed_layers_is_its_merged_layers_one_by_one(name):
    x, params = parameters()
    adapter, factors = adapted(name)
    got = jax.jit(partial(adapter.apply, MODEL))(params, factors, x)
    merged, expected = adapter.merge(params, factors)["layers"], x
    for layer in range(3):
        expected, _ = Block().apply({"params": jax.tree.map(itemgetter(layer), merged)}, expected)
    plain = MODEL.apply({"params": params}, x)
    assert jnp.abs(got - plain).max() > 0.05
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))


@each
def test_gradients_and_vmap_through_the_interceptor_are_those_through_merge(name):
    x, params = parameters()
    adapter, factors = adapted(name)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), factors)

    def loss(run, factors):
        return jnp.mean(jnp.log1p(run(factors) ** 2))  # never flat: where tanh is, its slope is all rounding

    def through_apply(factors):
        return adapter.apply(MODEL, params, factors, x)

    def through_merge(factors):
        return MODEL.apply({"params": adapter.merge(params, factors)}, x)

    @jax.jit
    def both(two):
        return [jax.vmap(jax.value_and_grad(partial(loss, run)))(two) for run in (through_apply, through_merge)]

    got, expected = both(two)
    assert jax.tree.structure(got[1]) == jax.tree.structure(factors)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))


@each
def test_a_bf16_base_stays_bf16_and_close(name):
    x, params = parameters()
    adapter, factors = adapted(name)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    merged = adapter.merge(half, factors)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    got = jax.jit(partial(adapter.apply, MODEL))(half, factors, x.astype(jnp.bfloat16))
    assert got.dtype == jnp.bfloat16
    exact = MODEL.apply({"params": adapter.merge(params, factors)}, x)
    np.testing.assert_allclose(got.astype(jnp.float32), exact, atol=0.03 * float(jnp.abs(exact).max()))


@each
def test_unmerge_gives_the_base_to_the_bit(name):
    _, params = parameters()
    adapter, factors = adapted(name)
    for base in (params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)):
        kept = adapter.kept(base)
        merged = adapter.merge(base, factors)
        assert bits(merged) != bits(base)
        assert bits(adapter.unmerge(merged, kept)) == bits(adapter.unmerge(merged, base)) == bits(base)


@each
def test_merging_what_is_not_finite_is_refused(name):
    _, params = parameters()
    adapter, factors = adapted(name)
    leaves, tree = jax.tree.flatten(factors)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(jnp.nan)
    with pytest.raises(UserError, match=r"the merged layers/\S+ has values that are not finite"):
        adapter.merge(params, jax.tree.unflatten(tree, leaves))


@each
def test_saving_what_was_loaded_writes_the_same_bytes(name, tmp_path):
    adapter, factors = adapted(name)
    save_adapter(tmp_path / "one", adapter, factors, base_name="base")
    again, loaded = load_adapter(tmp_path / "one")
    assert again == adapter
    save_adapter(tmp_path / "two", again, loaded, base_name="base")
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    _, stacked = load_adapter(tmp_path / "one", parameters()[1])
    assert bits(stacked) == bits(factors)


@each_dense
def test_each_row_of_a_batch_may_have_its_own_factors(name):
    x, params = parameters()
    adapter, factors = adapted(name)
    sets = [factors, jax.tree.map(lambda leaf: -0.5 * leaf, factors), jax.tree.map(jnp.zeros_like, factors)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sets)
    ids = jnp.array([2, 0, 1, 0])
    got = jax.jit(partial(adapter.apply, MODEL))(params, stacked, x, adapter_ids=ids)
    each_alone = jax.jit(jax.vmap(partial(adapter.apply, MODEL), in_axes=(None, 0, None)))(params, stacked, x)
    for row, chosen in enumerate(ids):
        np.testing.assert_allclose(got[row], each_alone[chosen, row], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[0], MODEL.apply({"params": params}, x)[0], rtol=1e-5, atol=1e-5)


@each
def test_combining_is_by_weight_or_refused(name):
    """For additive kernels the differences add up, for HiRA the low-rank matrices do, and else the deviations."""
    _, params = parameters()
    adapter, one = adapted(name)
    two = noisy(one, 0.2, seed=8)
    weights = [0.7, -0.4]
    if isinstance(adapter.transform, DoRA | LoHa):
        with pytest.raises(UserError, match=r"factors do not combine: .*merge"):
            combine([(adapter, one), (adapter, two)], weights, params)
        return
    joint, factors = combine([(adapter, one), (adapter, two)], weights, params)
    got = joint.merge(params, factors)
    if isinstance(adapter.transform, LoRA | HiRA | Full):
        assert joint.transform == adapter.transform or joint.transform.rank == 2 * adapter.transform.rank
        ones, twos = (adapter.merge(params, own) for own in (one, two))
        expected = jax.tree.map(lambda w, a, b: w + weights[0] * (a - w) + weights[1] * (b - w), params, ones, twos)
    else:
        assert joint == adapter
        expected = adapter.merge(params, jax.tree.map(lambda a, b: weights[0] * a + weights[1] * b, one, two))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
