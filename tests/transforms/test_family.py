"""What every transformation promises of one kernel, asked of each of them. One that is added must be added here too.

Most of these tests' time goes into compiling. So one program computes what several tests look at, and the comparisons
are numpy's.
"""

import dataclasses
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from hut_jax import UserError
from hut_jax.transforms import (
    HUT,
    IA3,
    SSF,
    TRANSFORMS,
    BitFit,
    DoRA,
    Full,
    HiRA,
    LoHa,
    LoRA,
    LoRAPlus,
)
from hut_jax.transforms.base import Layer
from tests.transforms.readings import multiplier
from tests.transforms.samples import SAMPLES

INHERITED = {"hut-kronecker", "hut-sum", "lora-rs", "lora_plus", "bitfit", "layernorm"}
"""Those that compute with another's code, and so are tried less often in the quick tier."""
DENSE = {name: transform for name, transform in SAMPLES.items() if not transform.whole_leaves}

each = pytest.mark.parametrize("name", SAMPLES)
each_dense = pytest.mark.parametrize("name", DENSE)
each_code = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.full] * (name in INHERITED)) for name in SAMPLES]
)
each_dtype = pytest.mark.parametrize(
    ("dtype", "name"),
    [
        pytest.param(dtype, name, id=f"{name}-{jnp.dtype(dtype)}", marks=[pytest.mark.full] * less)
        for dtype in (jnp.float32, jnp.bfloat16)
        for name in SAMPLES
        for less in [name in INHERITED and dtype == jnp.bfloat16]
    ],
)


def test_every_transformation_is_in_this_suite():
    assert {type(sample) for sample in SAMPLES.values()} == set(TRANSFORMS.values())
    assert {sample.name for sample in SAMPLES.values()} == set(DEFINITIONS) == set(TRANSFORMS)


def dense(x, kernel, bias):
    y = jnp.dot(x, kernel, precision="highest")
    return y if bias is None else y + bias


def case(d=8, k=12, *, dtype=jnp.float32, seed=0):
    """An input, a kernel and a bias that bf16 holds exactly, with zeros of both signs among their entries."""
    random = np.random.default_rng(seed)
    arrays = [random.standard_normal(shape).astype(jnp.bfloat16) for shape in ((2, 3, d), (d, k), k)]
    arrays[1][0, :2] = arrays[2][:2] = 0.0, -0.0
    return [array.astype(dtype) for array in arrays]


def drawn(transform, kernel, bias, size=0.5, seed=0):
    """Random factors for this kernel."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(transform.init, jax.random.key(0), *map(jnp.asarray, (kernel, bias)))
    return {name: np.float32(size * random.standard_normal(shape.shape)) for name, shape in shapes.items()}


@lru_cache
def program(transform):
    """All that a transformation does with one kernel, as one function."""

    def run(x, kernel, bias, factors):
        out = {"init": transform.init(jax.random.key(0), kernel, bias), "weight": transform.weight(kernel, factors)}
        if transform.whole_leaves:
            return out | {"merged": (out["weight"], bias)}
        merged = transform.merge(kernel, bias, factors)
        adapted = transform.forward(Layer(dense, kernel, bias), x, factors)
        return out | {"merged": merged, "adapted": adapted, "plain": dense(x, *merged), "base": dense(x, kernel, bias)}

    return jax.jit(run)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@each_dtype
def test_what_init_gives_and_zero_are_the_identity_to_the_bit(name, dtype):
    transform = SAMPLES[name]
    x, kernel, bias = case(dtype=dtype)
    nothing = drawn(transform, kernel, bias, size=0)
    zero = program(transform)(x, kernel, bias, nothing)["init"]
    assert {leaf.dtype for leaf in zero.values()} == {jnp.dtype(jnp.float32)}
    for factors in (zero, nothing):
        got = program(transform)(x, kernel, bias, factors)
        assert bits(got["weight"]) == bits(kernel)
        assert bits(got["merged"]) == bits((kernel, bias))
        if not transform.whole_leaves:
            assert bits(got["adapted"]) == bits(got["base"])


DRAWN = {name: {"a": 8} for name in ("hut-product", "lora", "lora-rs", "lora_plus", "dora", "hira")} | {
    "loha": {"a1": 8, "b1": 2, "a2": 8}
}
"""The factors that are drawn at the start, each with the number that it is multiplied along."""


@each_code
def test_what_is_drawn_at_the_start_is_uniform_within_its_bound_and_the_rest_is_zero(name):
    _, kernel, bias = case()
    start = program(SAMPLES[name])(*case(), drawn(SAMPLES[name], kernel, bias, size=0))["init"]
    random = DRAWN.get(name, {})
    if name == "hut-product":
        assert not np.any(start["a"][:, 0])
        start["a"] = start["a"][:, 1:]
    assert {key for key, leaf in start.items() if np.any(leaf)} == random.keys()
    numbers = [np.ravel(start[key]) * size**0.5 for key, size in random.items()]
    for drawn_ones in numbers:
        assert -1 <= drawn_ones.min() < -0.5 < 0.5 < drawn_ones.max() <= 1
    together = [*np.concatenate([[], *numbers])]
    assert len(set(together)) == len(together)


def _hut(w, bias, t, a, b, g, s):
    return w * multiplier(t.spread, a, b) * (1 + g), (1 + g) * bias + s


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


def check_merged(transform, dtype, d=8, k=12, seed=0, size=0.5):
    """Merged parameters are the formula's, rounded once, and a layer that has them is the adapted one."""
    x, kernel, bias = case(d, k, dtype=dtype, seed=seed)
    factors = drawn(transform, kernel, bias, size, seed)
    got = program(transform)(x, kernel, bias, factors)
    assert {leaf.dtype for leaf in jax.tree.leaves(got["merged"])} == {jnp.dtype(dtype)}
    wide = {key: np.asarray(leaf, np.float64) for key, leaf in factors.items()}
    formula = DEFINITIONS[transform.name](*(np.asarray(leaf, np.float64) for leaf in (kernel, bias)), transform, **wide)
    half_a_step = 2**-8 if dtype == jnp.bfloat16 else 2e-5
    for ours, theirs in zip(got["merged"], formula, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=1.01 * half_a_step, atol=4e-6)
    if transform.whole_leaves:
        return
    plain, adapted = (np.asarray(got[key], np.float32) for key in ("plain", "adapted"))
    assert got["plain"].dtype == got["adapted"].dtype == dtype
    # Rounding W and rounding y are not the same: in bf16 each entry of a sum may be off by half a step.
    tolerance = 4 * 2**-8 if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(plain, adapted, rtol=0, atol=tolerance * (np.abs(adapted).max() + 1))


@each_dtype
def test_merging_is_the_published_formula_and_what_the_adapted_layer_computes(name, dtype):
    for seed, size in ((0, 0.5), (1, 2.0)):
        check_merged(SAMPLES[name], dtype, seed=seed, size=size)


@pytest.mark.full
@each_dense
@given(d=st.integers(1, 4), k=st.integers(1, 4), seed=st.integers(0, 99), size=st.floats(0, 2), half=st.booleans())
@settings(max_examples=5, deadline=None)
def test_merging_is_so_for_kernels_of_any_shape(name, d, k, seed, size, half):
    check_merged(DENSE[name], jnp.bfloat16 if half else jnp.float32, 4 * d, 4 * k, seed, size)


@each_code
def test_gradients_are_those_of_finite_differences_in_float64(name):
    """Of the factors, and of kernel, bias and input; in reverse and, where the gradient is JAX's own, forward mode."""
    transform = SAMPLES[name]
    if hasattr(transform, "detach"):
        transform = dataclasses.replace(transform, detach=False)  # a norm held constant is no derivative
    # Where HUT forms the kernel its gradient is written out, so there is no other derivative.
    written_out = isinstance(transform, HUT) and transform.forms_kernel

    def loss(x, kernel, bias, factors):
        if transform.whole_leaves:
            return jnp.sum(jnp.sin(transform.weight(kernel, factors)))
        return jnp.sum(jnp.sin(transform.forward(Layer(dense, kernel, bias), x, factors)))

    @jax.jit
    def derivatives(*arguments):
        flat, back = ravel_pytree(arguments)
        differences = jax.vmap(lambda step: (along(flat + step) - along(flat - step)) / 2e-6)

        def along(vector):
            return loss(*back(vector))

        modes = [jax.grad(along)] if written_out else [jax.grad(along), jax.jacfwd(along)]
        return [back(derivative(flat)) for derivative in modes], back(differences(1e-6 * jnp.eye(flat.size)))

    x, kernel, bias = case(dtype=np.float64)
    factors = drawn(transform, *case()[1:])
    with jax.enable_x64():
        got, expected = derivatives(x, kernel, bias, jax.tree.map(np.float64, factors))
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(jnp.float64)}
    for leaf in jax.tree.leaves(expected[3]):
        assert np.abs(leaf).max() > 1e-3
    for ours in got:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), ours, expected)


@each
def test_sets_for_one_kernel_combine_by_weight_or_are_refused(name):
    """For additive kernels the differences add up, for HiRA the low-rank matrices do, and else the deviations.

    HUT's reading `product` is in part the one and in part the other; tests/transforms/test_hut.py has it.
    """
    if name == "hut-product":
        return
    transform, weights = SAMPLES[name], [0.7, -0.4]
    _, kernel, bias = case()
    one, two = (drawn(transform, kernel, bias, seed=seed) for seed in (1, 2))
    joint = []

    @jax.jit
    def combined(kernel, one, two):
        new, factors = transform.combine([(transform, one), (transform, two)], weights)
        joint.append(new)
        summed = {key: weights[0] * one[key] + weights[1] * two[key] for key in one}
        return new.weight(kernel, factors), *(transform.weight(kernel, own) for own in (one, two, summed)), factors

    if isinstance(transform, DoRA | LoHa):
        with pytest.raises(UserError, match=r"factors do not combine: .*merge"):
            combined(kernel, one, two)
        return
    got, first, second, summed, factors = combined(kernel, one, two)
    assert factors.keys() == one.keys()
    if isinstance(transform, LoRA | HiRA | Full):
        assert joint[0] == transform or (type(joint[0]), joint[0].rank) == (type(transform), 2 * transform.rank)
        expected = kernel + weights[0] * (first - kernel) + weights[1] * (second - kernel)
    else:
        assert joint[0] == transform
        expected = summed
        for key, leaf in factors.items():
            np.testing.assert_allclose(leaf, weights[0] * one[key] + weights[1] * two[key], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_dora_keeps_no_norm_where_a_column_is_zero_before_or_after():
    """A norm of zero has no direction: the column is then scaled by 1 + g alone."""
    x, kernel, bias = case()
    factors = drawn(SAMPLES["dora"], kernel, bias)
    kernel = np.asarray(kernel).copy()
    kernel[:, 3] = 0
    factors["a"][:, 0], factors["b"][:, 4] = np.eye(8)[0], [1.5, 0, 0]  # s is 2/3, so that s A B is 1, 0, 0, ...
    kernel[:, 4] = -np.eye(8)[0]
    got = program(SAMPLES["dora"])(x, kernel, bias, factors)["weight"]
    expected = 2 / 3 * factors["a"] @ factors["b"][:, 3] * (1 + factors["g"][3])
    np.testing.assert_allclose(got[:, 3], expected, rtol=1e-5)
    np.testing.assert_array_equal(got[:, 4], 0)
    assert np.isfinite(got).all()


def test_ia3_scales_inputs_where_it_is_asked_to():
    transform = IA3("input")
    x, kernel, bias = case()
    factors = drawn(transform, kernel, bias)
    got = program(transform)(x, kernel, bias, factors)
    scale = 1 + factors["l"]
    np.testing.assert_allclose(got["adapted"], (scale * x) @ kernel + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got["merged"][0], scale[:, None] * kernel)
    np.testing.assert_array_equal(got["merged"][1], bias)


N, D, K, R = 5, 7, 11, 3
THIN = N * R * (D + K)
PRODUCT = (2 * R * D * K + D * K + R * (D + 2 * K), 2 * N * D * K + (6 * R + 2) * D * K + R * (D + 2 * K) + N * K)
DORA = (2 * THIN + 3 * N * K + 2 * R * D * K + 2 * R * R * (D + K) + 2 * D * K, 4 * THIN + N * (5 * K + D))


@pytest.mark.parametrize(
    ("transform", "leaf", "forward", "backward"),
    [
        (HUT(R), "kernel", 2 * D * K + R * (D + 2 * K), (2 * N + 7) * D * K + R * (D + 2 * K) + N * K),
        (HUT(R, scale=False), "kernel", 2 * D * K + R * (D + K), (2 * N + 7) * D * K + R * (D + K) + N * K),
        (HUT(R, scale=False, shift=False), "kernel", 2 * D * K + R * (D + K), (2 * N + 7) * D * K + R * (D + K)),
        (
            HUT(R, spread="kronecker"),
            "kernel",
            2 * D * K + R * (D + 2 * K),
            (2 * N + 7) * D * K + R * (D + 2 * K) + N * K,
        ),
        (HUT(R, spread="sum"), "kernel", (N + R) * (D + K), 3 * N * (D + K) + N * K),
        (HUT(R, spread="product"), "kernel", *PRODUCT),
        (HUT(1), "kernel", N * (D + K), 3 * N * (D + K) + N * K),
        (HUT(1, shift=False), "kernel", N * (D + K), 3 * N * (D + K) + N * K),
        (HUT(1, scale=False, shift=False), "kernel", N * (D + K), 3 * N * (D + K)),
        (LoRA(R), "kernel", 2 * THIN + 2 * N * K, 4 * THIN + N * (2 * K + D)),
        (LoRAPlus(R), "kernel", 2 * THIN + 2 * N * K, 4 * THIN + N * (2 * K + D)),
        (DoRA(R), "kernel", *DORA),
        # The norms' products with W0 and with B have one gradient product each, and A^T A has two.
        (DoRA(R, detach=False), "kernel", DORA[0], DORA[1] + 2 * R * D * K + 4 * R * R * (D + K)),
        (HiRA(R), "kernel", 2 * R * D * K + 2 * D * K, 2 * N * D * K + 4 * R * D * K + D * K),
        (LoHa(R), "kernel", 4 * R * D * K + 4 * D * K, 2 * N * D * K + 8 * R * D * K + 5 * D * K),
        (IA3("output"), "kernel", N * K, 3 * N * K),
        (IA3("input"), "kernel", N * D, 3 * N * D),
        (SSF(), "kernel", 2 * N * K, 5 * N * K),
        (SSF(shift=False), "kernel", N * K, 3 * N * K),
        (Full(), "kernel", 2 * D * K, 2 * N * D * K + 2 * D * K),
        (Full(), "embedding", 2 * D * K, N * K + 2 * D * K),
        (Full(), "scale", 2 * D * K, 2 * N * K + 2 * D * K),
        (BitFit(), "bias", 2 * D * K, N * K + 2 * D * K),
    ],
)
def test_the_cost_on_paper_is_the_formula(transform, leaf, forward, backward):
    """Those of docs/cost.md, with the smaller terms. tests/test_cost.py compares them with what XLA counts."""
    assert transform.cost(N, D, K, leaf) == (forward, backward)
