"""The readings of HUT's formula: what each multiplies a kernel by, its gradient, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.costs.flops import xla_flops
from hut_jax.transforms.base import Layer
from hut_jax.transforms.hut import HUT
from hut_jax.transforms.spread import GROUPED, SPREADS
from tests.transforms.readings import dense, in_jax, make, multiplier


def test_the_kernel_is_the_formula_of_its_reading_written_with_products_of_matrices():
    """In the order of `SPREADS`: Kronecker products with ones, ordinary products with ones, and M_A @ M_B."""
    d, k, r = 12, 8, 4

    def kronecker(a, b, input_groups, output_groups):
        rows, columns = np.ones((d // r, 1)), np.ones((1, k // r))
        spread_a = np.kron(a, columns) if output_groups == "runs" else np.kron(columns, a)
        return spread_a * (np.kron(b, rows) if input_groups == "runs" else np.kron(rows, b))

    ones = np.ones((r, k)), np.ones((d, r))
    formulas = {
        "block": lambda a, b: kronecker(1 + a, 1 + b, "runs", "runs"),
        "cyclic": lambda a, b: kronecker(1 + a, 1 + b, "every r-th", "every r-th"),
        "kronecker": lambda a, b: kronecker(1 + a, 1 + b, "every r-th", "runs"),
        "sum": lambda a, b: (1 + a @ ones[0]) * (1 + ones[1] @ b),
        "product": lambda a, b: (np.eye(1, r) + a) @ (np.eye(r, 1) + b),
    }
    assert formulas.keys() == set(SPREADS)
    _, kernel, _, factors = make(HUT(rank=r), d // r, k // r)
    a, b = factors["a"], factors["b"]
    weights = jax.jit(lambda *given: {s: HUT(r, s).weight(given[0], {"a": given[1], "b": given[2]}) for s in SPREADS})
    found = weights(jnp.asarray(kernel), a, b)
    for spread, formula in formulas.items():
        np.testing.assert_allclose(found[spread], formula(a, b) * kernel, rtol=1e-5, atol=1e-6)
        others = (np.abs(found[spread] - found[other]).max() for other in SPREADS if other != spread)
        assert min(others) > 0.1


@pytest.mark.parametrize(("spread", "largest"), [*((one, 9) for one in GROUPED), ("sum", 1), ("product", 3)])
@given(seed=st.integers(0, 999), size=st.floats(0.01, 3))
@settings(max_examples=20, deadline=None)
def test_the_rank_of_the_multiplier_is_r_squared_or_one_or_r(spread, largest, seed, size):
    random = np.random.default_rng(seed)
    a, b = (size * random.standard_normal(shape) for shape in ((12, 3), (3, 15)))
    assert np.linalg.matrix_rank(multiplier(spread, a, b)) == largest
    assert np.linalg.matrix_rank(multiplier(spread, 0 * a, 0 * b)) == 1


def test_at_rank_one_all_readings_are_two_diagonals_with_the_same_outputs_and_gradients():
    x, kernel, bias, factors = jax.tree.map(jnp.asarray, make(HUT(rank=1), 5, 3))

    def loss(factors, hut):
        y = hut.forward(Layer(dense, kernel, bias), x, factors)
        return jnp.sum(jnp.sin(y)), (hut.merge(kernel, bias, factors), y)

    gradient = jax.jit(lambda factors: [jax.grad(loss, has_aux=True)(factors, HUT(1, spread)) for spread in SPREADS])
    (first, (merged, y)), *others = gradient(factors)
    expected = np.diag(1 + factors["a"][:, 0]) @ kernel @ np.diag((1 + factors["b"][0]) * (1 + factors["g"]))
    np.testing.assert_allclose(merged[0], expected, rtol=1e-5, atol=1e-6)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), other, (first, (merged, y)))


def check_gradients(huts, rows, columns):
    """Those of the layer are those through the formula, for a whole kernel and for a split one."""

    def ours(x, kernel, bias, factors, hut, split):
        return jnp.sum(jnp.sin(hut.forward(Layer(dense, kernel, bias, split), x, factors)))

    def by_formula(x, kernel, bias, factors, hut):
        y = dense(x, kernel * in_jax(hut.spread, factors["a"], factors["b"]), bias)
        return jnp.sum(jnp.sin(y * (1 + factors.get("g", 0)) + factors.get("s", 0)))

    @jax.jit
    def gradients(cases):
        return [
            (
                jax.grad(by_formula, (0, 1, 2, 3))(*case, hut),
                [jax.grad(ours, (0, 1, 2, 3))(*case, hut, split) for split in (False, True)],
            )
            for hut, case in zip(huts, cases, strict=True)
        ]

    for expected, found in gradients([jax.tree.map(jnp.asarray, make(hut, rows, columns)) for hut in huts]):
        for one in found:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, expected)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(expected)) or expected[1].size == 1


def test_gradients_are_those_through_the_formula_also_of_a_split_kernel():
    check_gradients([HUT(rank=2, spread=spread) for spread in SPREADS], 2, 3)


@pytest.mark.full
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.sampled_from(SPREADS), st.booleans())
@settings(max_examples=8, deadline=None)
def test_gradients_for_kernels_of_any_shape_are_those_through_the_formula(r, rows, columns, spread, scale):
    check_gradients([HUT(rank=r, spread=spread, scale=scale)], rows, columns)


@pytest.mark.parametrize(
    ("spread", "rank", "t", "folds"),
    [
        ("block", 4, 3, True),
        ("block", 4, 1, True),
        ("block", 4, 6, False),
        ("cyclic", 4, 3, False),
        ("kronecker", 4, 3, False),
        ("sum", 3, 6, True),
        ("product", 4, 3, False),
        ("product", 1, 12, True),
    ],
)
def test_m_b_folds_into_the_scales_of_a_quantised_kernel_where_it_is_equal_for_neighbours(spread, rank, t, folds):
    """W0[i, j] = s[i // t, j] Q[i, j]: a multiplier that is the same for all i of a group multiplies s, and Q stays."""
    *_, factors = make(HUT(rank, "sum"), 12, 8)
    start = HUT(rank, spread).init(jax.random.key(0), jnp.ones((12, 8)), jnp.ones(8))["a"]
    by_group = multiplier(spread, start, factors["b"]).reshape(12 // t, t, 8)
    assert np.allclose(by_group, by_group[:, :1], rtol=1e-12) is folds


@pytest.mark.parametrize(
    "spread", [pytest.param(one, marks=[pytest.mark.full] * (one != "product")) for one in SPREADS]
)
def test_its_cost_on_paper_is_what_xla_counts(spread):
    hut = HUT(rank=8, spread=spread)
    n, d, k = 512, 128, 192
    x, kernel, bias, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (d, k), (k,), (n, k)))
    factors = jax.eval_shape(hut.init, jax.random.key(0), kernel, bias)

    def frozen(factors, x, kernel, bias):
        return dense(x, kernel, bias)

    def adapted(factors, x, kernel, bias):
        return hut.forward(Layer(dense, kernel, bias), x, factors)

    def counted(layer):
        def with_gradients(factors, x, kernel, bias, g):
            y, pull = jax.vjp(lambda factors, x: layer(factors, x, kernel, bias), factors, x)
            return y, pull(g)

        forward = xla_flops(layer, factors, x, kernel, bias).flops
        return np.array([forward, xla_flops(with_gradients, factors, x, kernel, bias, y).flops - forward])

    np.testing.assert_allclose(hut.cost(n, d, k), counted(adapted) - counted(frozen), rtol=0.03)
