"""HUT against its definition, written out with Kronecker products and with loops."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.transforms.base import Layer
from hut_jax.transforms.hut import HUT


def dense(x, kernel, bias):
    y = jnp.dot(x, kernel, precision="highest")
    return y if bias is None else y + bias


def make(hut, rows, columns, *, bias=True, dtype=jnp.float32, size=0.5):
    """An input, a random kernel of shape [r * rows, r * columns] and its bias, and random factors."""
    d, k = hut.rank * rows, hut.rank * columns
    random = np.random.default_rng(0)
    x, kernel, vector = (random.standard_normal(shape).astype(dtype) for shape in ((3, d), (d, k), k))
    kernel[0, 0] = vector[0] = -0.0
    shapes = {"a": (d, hut.rank), "b": (hut.rank, k)}
    shapes |= {name: (k,) for name, trains in (("g", hut.scale), ("s", hut.shift)) if trains}
    factors = {name: np.float32(size * random.standard_normal(shape)) for name, shape in shapes.items()}
    return x, kernel, vector if bias else None, factors


@lru_cache
def program(hut):
    """The kernel, the merged layer and the adapted layer, as one function."""

    def run(x, kernel, bias, factors):
        adapted = hut.forward(Layer(dense, kernel, bias), x, factors)
        merged = hut.merge(kernel, bias, factors)
        return hut.weight(kernel, factors), merged, adapted, dense(x, *merged), dense(x, kernel, bias)

    return jax.jit(run)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def definition(hut, kernel, factors):
    """W entry by entry, in float64."""
    (d, k), r = kernel.shape, hut.rank
    a, b = (1 + np.asarray(factors[name], np.float64) for name in "ab")
    expected = np.empty((d, k))
    for i in range(d):
        for j in range(k):
            p, q = (i // (d // r), j // (k // r)) if hut.spread == "block" else (i % r, j % r)
            expected[i, j] = a[i, q] * float(kernel[i, j]) * b[p, j]
    return expected


def check(hut, rows, columns, *, bias=True, dtype=jnp.float32):
    """The definition, gamma and beta; the merged layer is the adapted one; zero factors change no bit."""
    x, kernel, vector, factors = jax.tree.map(jnp.asarray, make(hut, rows, columns, bias=bias, dtype=dtype))
    run = program(hut)
    weight, merged, adapted, plain, _ = run(x, kernel, vector, factors)
    expected = definition(hut, kernel, factors)
    gamma, beta = (np.asarray(factors.get(name, 0), np.float64) for name in "gs")
    rtol = 1e-5 if dtype == jnp.float32 else 1.01 * 2**-8  # rounded once
    assert {leaf.dtype for leaf in jax.tree.leaves((weight, merged, adapted))} == {jnp.dtype(dtype)}
    np.testing.assert_allclose(np.asarray(weight, np.float64), expected, rtol, 1e-6)
    np.testing.assert_allclose(np.asarray(merged[0], np.float64), expected * (1 + gamma), rtol, 1e-6)
    if bias:
        np.testing.assert_allclose(
            np.asarray(merged[1], np.float64), (1 + gamma) * np.asarray(vector, np.float64) + beta, rtol, 1e-6
        )
    else:
        assert merged[1] is None
    if dtype == jnp.float32:
        np.testing.assert_allclose(plain, adapted, rtol=1e-5, atol=1e-5 * np.abs(adapted).max())

    zero = {name: jnp.asarray(0 * np.asarray(leaf)) for name, leaf in factors.items()}
    weight, merged, adapted, _, base = run(x, kernel, vector, zero)
    assert bits(weight) == bits(kernel)
    assert bits(merged) == bits((kernel, vector))
    assert bits(adapted) == bits(base)


@pytest.mark.parametrize(
    ("hut", "rows", "columns", "bias"),
    [
        (HUT(rank=4), 3, 2, True),
        (HUT(rank=4, spread="cyclic"), 3, 2, True),
        (HUT(rank=2, scale=False), 1, 3, True),
        (HUT(rank=3, spread="cyclic", shift=False), 2, 1, False),
        (HUT(rank=1, scale=False), 5, 3, True),
        (HUT(rank=1, shift=False), 5, 3, False),
        (HUT(rank=1, scale=False, shift=False), 5, 3, True),
    ],
    ids=str,
)
def test_the_kernel_is_the_definition_and_the_layer_computes_with_it(hut, rows, columns, bias):
    check(hut, rows, columns, bias=bias)


@pytest.mark.full
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["block", "cyclic"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([jnp.float32, jnp.bfloat16]),
)
@settings(max_examples=12, deadline=None)
def test_the_kernel_is_the_definition_whatever_its_shape(r, rows, columns, spread, scale, shift, dtype):
    check(HUT(rank=r, spread=spread, scale=scale, shift=shift), rows, columns, dtype=dtype)


@pytest.mark.parametrize("spread", ["block", "cyclic"])
def test_weight_is_the_kronecker_form(spread):
    hut = HUT(rank=4, spread=spread)
    x, kernel, bias, factors = make(hut, 3, 2)
    a, b = 1 + factors["a"], 1 + factors["b"]
    columns, rows = np.ones((1, 2)), np.ones((3, 1))
    if spread == "block":
        expected = np.kron(a, columns) * kernel * np.kron(b, rows)
    else:
        expected = np.kron(columns, a) * kernel * np.kron(rows, b)
    np.testing.assert_allclose(program(hut)(x, kernel, bias, factors)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("spread", ["block", "cyclic"])
def test_rank_one_is_two_diagonals(spread):
    hut = HUT(rank=1, spread=spread, scale=False)
    x, kernel, bias, factors = make(hut, 5, 3)
    expected = np.diag(1 + factors["a"][:, 0]) @ kernel @ np.diag(1 + factors["b"][0])
    np.testing.assert_allclose(program(hut)(x, kernel, bias, factors)[0], expected, rtol=1e-5, atol=1e-6)


def check_split(hut, rows, columns):
    x, kernel, bias, factors = make(hut, rows, columns)

    def loss(factors, x, split):
        return jnp.sum(jnp.sin(hut.forward(Layer(dense, kernel, bias, split), x, factors)))

    kernel, bias = jnp.asarray(kernel), jnp.asarray(bias)
    whole, split = jax.jit(lambda *given: [jax.grad(loss, (0, 1))(*given, split) for split in (False, True)])(
        factors, jnp.asarray(x)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), split, whole)
    assert np.abs(whole[0]["a"]).max() > 1e-3 or kernel.size == 1


@pytest.mark.parametrize("spread", ["block", "cyclic"])
def test_gradients_of_a_split_kernel_are_the_same(spread):
    check_split(HUT(rank=2, spread=spread), 2, 3)


@pytest.mark.full
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["block", "cyclic"]))
@settings(max_examples=8, deadline=None)
def test_gradients_of_a_split_kernel_of_any_shape_are_the_same(r, rows, columns, spread):
    check_split(HUT(rank=r, spread=spread), rows, columns)


def test_a_mesh_around_it_changes_nothing():
    """What a transformation must know of the devices is told it by its layer."""
    hut = HUT(rank=2)
    x, kernel, bias, factors = jax.tree.map(jnp.asarray, make(hut, 3, 2))

    def program(split, mesh):
        def loss(factors):
            return jnp.sum(hut.forward(Layer(dense, kernel, bias, split), x, factors))

        with jax.sharding.use_abstract_mesh(mesh):
            return str(jax.make_jaxpr(jax.grad(loss))(factors)).replace("'tensor': 4", "'tensor': 1")

    auto = (jax.sharding.AxisType.Auto,) * 3
    meshes = [jax.sharding.AbstractMesh(sizes, ("data", "fsdp", "tensor"), auto) for sizes in ((1, 1, 1), (1, 1, 4))]
    assert program(False, meshes[0]) == program(False, meshes[1])
    assert program(True, meshes[0]) != program(False, meshes[0])


def init(hut, shape, *, bias=True):
    kernel, vector = jnp.asarray(np.ones(shape, np.float32)), jnp.asarray(np.ones(shape[1], np.float32))
    return hut.init(jax.random.key(0), kernel, vector if bias else None)


def test_init_has_as_many_numbers_as_lora_and_the_output_vectors():
    d, k = 12, 8
    factors = init(HUT(rank=4), (d, k))
    assert {name: factor.shape for name, factor in factors.items()} == {"a": (d, 4), "b": (4, k), "g": (k,), "s": (k,)}
    assert all(factor.dtype == jnp.float32 and not np.any(factor) for factor in factors.values())
    bare = init(HUT(rank=4, scale=False, shift=False), (d, k), bias=False)
    assert set(bare) == {"a", "b"}
    assert sum(factor.size for factor in bare.values()) == 4 * (d + k)


@pytest.mark.parametrize(
    ("settings", "shape", "bias", "message"),
    [
        ({"rank": 5}, (12, 8), True, r"rank 5 does not divide .* \[12, 8\]; the nearest ranks that do: 2, 4$"),
        ({"rank": 7}, (24, 16), True, r"rank 7 does not divide .* \[24, 16\]; the nearest ranks that do: 4, 8$"),
        ({"rank": 8}, (12, 8), True, r"rank 8 does not divide"),
        ({"rank": 2}, (12, 8), False, r"needs a layer with a bias.*shift=False"),
        ({"rank": 0}, (12, 8), True, r"rank must be a whole number of at least 1, not 0"),
        ({"rank": 2, "spread": "blok"}, (12, 8), True, r"unknown spread 'blok'; did you mean 'block'\?"),
    ],
)
def test_what_does_not_fit_is_refused(settings, shape, bias, message):
    with pytest.raises(UserError, match=message):
        init(HUT(**settings), shape, bias=bias)


@pytest.mark.parametrize("rank", [1, 2])
def test_zero_factors_change_no_bit_of_a_bf16_layer_in_a_program_of_its_own(rank):
    """XLA may leave out a rounding to bf16 in one program and not in another."""
    hut = HUT(rank)
    x, kernel, bias, factors = make(hut, 64 // rank, 64 // rank, dtype=jnp.bfloat16)
    zero = {name: 0 * leaf for name, leaf in factors.items()}
    adapted = jax.jit(lambda x, kernel, bias, zero: hut.forward(Layer(dense, kernel, bias), x, zero))
    adapted = adapted(x, kernel, bias, zero)
    assert bits(adapted) == bits(jax.jit(dense)(x, kernel, bias))
