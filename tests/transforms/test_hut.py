"""HUT against its definition, written out with Kronecker products and with loops, and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.core.errors import UserError
from hut_jax.transforms.base import Layer
from hut_jax.transforms.hut import HUT

spreads = st.sampled_from(["block", "cyclic"])
dtypes = st.sampled_from([jnp.float32, jnp.bfloat16])
ranks = st.integers(1, 5)
multiples = st.integers(1, 4)


def dense(x, kernel, bias):
    y = jnp.dot(x, kernel, precision="highest")
    return y if bias is None else y + bias


def make(r, rows, columns, spread, *, scale=True, shift=True, dtype=jnp.float32, seed=0, size=0.5):
    """A transformation with random factors for a random kernel of shape [r * rows, r * columns]."""
    d, k = r * rows, r * columns
    random = np.random.default_rng(seed)
    kernel, bias = (jnp.asarray(random.standard_normal(shape), dtype) for shape in ((d, k), k))
    hut = HUT(rank=r, spread=spread, scale=scale, shift=shift)
    factors = hut.init(jax.random.key(0), kernel, bias)
    noisy = {name: jnp.asarray(size * random.standard_normal(f.shape), f.dtype) for name, f in factors.items()}
    return hut, kernel, bias, noisy


def bits(array):
    return np.asarray(array).view(np.uint8).tobytes()


@given(ranks, multiples, multiples, spreads, dtypes)
@settings(max_examples=20, deadline=None)
def test_weight_is_the_definition_entry_by_entry(r, rows, columns, spread, dtype):
    hut, kernel, _, factors = make(r, rows, columns, spread, dtype=dtype)
    a, b = 1 + np.asarray(factors["a"], np.float64), 1 + np.asarray(factors["b"], np.float64)
    d, k = kernel.shape
    expected = np.empty((d, k))
    for i in range(d):
        for j in range(k):
            p, q = (i // (d // r), j // (k // r)) if spread == "block" else (i % r, j % r)
            expected[i, j] = a[i, q] * float(kernel[i, j]) * b[p, j]
    got = hut.weight(kernel, factors)
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("spread", ["block", "cyclic"])
def test_weight_is_the_kronecker_form(spread):
    hut, kernel, _, factors = make(4, 3, 2, spread)
    a, b = 1 + factors["a"], 1 + factors["b"]
    columns, rows = jnp.ones((1, kernel.shape[1] // 4)), jnp.ones((kernel.shape[0] // 4, 1))
    if spread == "block":
        expected = jnp.kron(a, columns) * kernel * jnp.kron(b, rows)
    else:
        expected = jnp.kron(columns, a) * kernel * jnp.kron(rows, b)
    np.testing.assert_allclose(hut.weight(kernel, factors), expected, rtol=1e-6)


@given(multiples, multiples, spreads)
@settings(max_examples=10, deadline=None)
def test_rank_one_is_two_diagonals(rows, columns, spread):
    hut, kernel, _, factors = make(1, rows, columns, spread)
    expected = jnp.diag(1 + factors["a"][:, 0]) @ kernel @ jnp.diag(1 + factors["b"][0])
    np.testing.assert_allclose(hut.weight(kernel, factors), expected, rtol=1e-5, atol=1e-6)


@given(ranks, multiples, multiples, spreads, st.booleans(), st.booleans(), dtypes)
@settings(max_examples=15, deadline=None)
def test_zero_factors_change_no_bit(r, rows, columns, spread, scale, shift, dtype):
    hut, kernel, bias, factors = make(r, rows, columns, spread, scale=scale, shift=shift, dtype=dtype, size=0)
    kernel, bias = kernel.at[0, 0].set(-0.0), bias.at[0].set(-0.0)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, kernel.shape[0])), dtype)

    assert bits(hut.weight(kernel, factors)) == bits(kernel)
    assert bits(jax.jit(hut.weight)(kernel, factors)) == bits(kernel)
    merged_kernel, merged_bias = hut.merge(kernel, bias, factors)
    assert (bits(merged_kernel), bits(merged_bias)) == (bits(kernel), bits(bias))
    assert bits(hut.forward(Layer(dense, kernel, bias), x, factors)) == bits(dense(x, kernel, bias))


@given(ranks, multiples, multiples, spreads, st.booleans(), st.booleans())
@settings(max_examples=15, deadline=None)
def test_merged_equals_forward(r, rows, columns, spread, scale, shift):
    hut, kernel, bias, factors = make(r, rows, columns, spread, scale=scale, shift=shift)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, kernel.shape[0])), jnp.float32)

    expected = hut.forward(Layer(dense, kernel, bias), x, factors)
    got = dense(x, *hut.merge(kernel, bias, factors))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))


def test_bf16_base_is_rounded_once():
    hut, kernel, bias, factors = make(4, 8, 8, "block", dtype=jnp.bfloat16)
    exact, _, _, _ = make(4, 8, 8, "block")
    in_fp32 = exact.weight(kernel.astype(jnp.float32), factors)
    assert bits(hut.weight(kernel, factors)) == bits(in_fp32.astype(jnp.bfloat16))
    merged, _ = hut.merge(kernel, bias, factors)
    assert bits(merged) == bits((in_fp32 * (1 + factors["g"])).astype(jnp.bfloat16))


@given(ranks, multiples, multiples, spreads)
@settings(max_examples=10, deadline=None)
def test_gradients_of_a_split_kernel_are_the_same(r, rows, columns, spread):
    hut, kernel, bias, factors = make(r, rows, columns, spread)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, kernel.shape[0])), jnp.float32)

    def loss(factors, split):
        return jnp.sum(jnp.sin(hut.forward(Layer(dense, kernel, bias, split), x, factors)))

    whole, split = (jax.grad(loss)(factors, split) for split in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), split, whole)


def test_a_mesh_around_it_changes_nothing():
    """What a transformation must know of the devices is told it by its layer."""
    hut, kernel, bias, factors = make(2, 3, 2, "block")
    x = jnp.ones((3, kernel.shape[0]))

    def program(split, mesh):
        def loss(factors):
            return jnp.sum(hut.forward(Layer(dense, kernel, bias, split), x, factors))

        with jax.sharding.use_abstract_mesh(mesh):
            return str(jax.make_jaxpr(jax.grad(loss))(factors)).replace("'tensor': 4", "'tensor': 1")

    auto = (jax.sharding.AxisType.Auto,) * 3
    meshes = [jax.sharding.AbstractMesh(sizes, ("data", "fsdp", "tensor"), auto) for sizes in ((1, 1, 1), (1, 1, 4))]
    assert program(False, meshes[0]) == program(False, meshes[1])
    assert program(True, meshes[0]) != program(False, meshes[0])


@pytest.mark.parametrize("spread", ["block", "cyclic"])
def test_every_gradient_is_the_finite_difference(spread):
    with jax.enable_x64(True):
        hut, kernel, bias, factors = make(2, 3, 2, spread)
        kernel, bias, factors = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (kernel, bias, factors))
        x = jax.random.normal(jax.random.key(3), (5, kernel.shape[0]), jnp.float64)

        def loss(factors):
            y = hut.forward(Layer(dense, kernel, bias), x, factors)
            return jnp.sum(jnp.sin(y))

        gradients = jax.grad(loss)(factors)
        step = 1e-6
        for name, factor in factors.items():
            for index in np.ndindex(factor.shape):
                up, down = (loss(factors | {name: factor.at[index].add(sign * step)}) for sign in (1, -1))
                difference = (up - down) / (2 * step)
                assert gradients[name][index] == pytest.approx(float(difference), rel=1e-6, abs=1e-7), (name, index)


def test_init_has_as_many_numbers_as_lora_and_the_output_vectors():
    hut, kernel, bias, _ = make(4, 3, 2, "block")
    factors = hut.init(jax.random.key(0), kernel, bias)
    d, k = kernel.shape
    assert {name: factor.shape for name, factor in factors.items()} == {"a": (d, 4), "b": (4, k), "g": (k,), "s": (k,)}
    assert all(factor.dtype == jnp.float32 and not factor.any() for factor in factors.values())
    bare = HUT(rank=4, scale=False, shift=False).init(jax.random.key(0), kernel, None)
    assert set(bare) == {"a", "b"}
    assert sum(factor.size for factor in bare.values()) == 4 * (d + k)


@pytest.mark.parametrize(
    ("settings", "shape", "bias", "message"),
    [
        ({"rank": 5}, (12, 8), True, r"rank 5 does not divide .* \[12, 8\]; the nearest ranks that do: 4, 2|: 2, 4"),
        ({"rank": 8}, (12, 8), True, r"rank 8 does not divide"),
        ({"rank": 2}, (12, 8), False, r"needs a layer with a bias.*shift=False"),
        ({"rank": 0}, (12, 8), True, r"rank must be a whole number of at least 1, not 0"),
        ({"rank": 2, "spread": "blok"}, (12, 8), True, r"unknown spread 'blok'; did you mean 'block'\?"),
    ],
)
def test_what_does_not_fit_is_refused(settings, shape, bias, message):
    with pytest.raises(UserError, match=message):
        HUT(**settings).init(jax.random.key(0), jnp.ones(shape), jnp.ones(shape[1]) if bias else None)
