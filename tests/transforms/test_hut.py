"""HUT against its definition, written out with products of matrices and with loops, in every reading."""

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
from hut_jax.transforms.lora import LoRA
from hut_jax.transforms.spread import SPREADS
from tests.transforms.readings import dense, make, multiplier


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
    return np.asarray(kernel, np.float64) * multiplier(hut.spread, factors["a"], factors["b"])


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
        (HUT(rank=4, spread="kronecker"), 3, 2, True),
        (HUT(rank=4, spread="sum"), 3, 5, True),
        (HUT(rank=4, spread="product"), 3, 5, True),
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
    st.sampled_from(SPREADS),
    st.booleans(),
    st.booleans(),
    st.sampled_from([jnp.float32, jnp.bfloat16]),
)
@settings(max_examples=15, deadline=None)
def test_the_kernel_is_the_definition_whatever_its_shape(r, rows, columns, spread, scale, shift, dtype):
    check(HUT(rank=r, spread=spread, scale=scale, shift=shift), rows, columns, dtype=dtype)


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


def test_sum_and_product_take_any_rank():
    for spread in ("sum", "product"):
        factors = init(HUT(rank=5, spread=spread), (3, 2))
        assert (factors["a"].shape, factors["b"].shape) == ((3, 5), (5, 2))


def test_product_draws_all_but_the_first_of_a_and_is_the_base_while_b_is_zero():
    hut = HUT(rank=3, spread="product")
    x, kernel, bias, _ = make(hut, 64, 6)
    start = init(hut, kernel.shape)
    assert not np.any(start["a"][:, 0])
    assert 0.9 / 8 < np.abs(start["a"][:, 1:]).max() <= 1 / 8
    assert len(set(np.ravel(start["a"][:, 1:]).tolist())) == 128
    weight, merged, adapted, _, base = program(hut)(x, kernel, bias, start)
    assert (bits(weight), bits(merged), bits(adapted)) == (bits(kernel), bits((kernel, bias)), bits(base))
    moved = start | {"b": start["b"].at[1].set(0.5)}
    assert np.abs(program(hut)(x, kernel, bias, moved)[0] - kernel).max() > 0.01


def test_the_reading_sum_learns_as_fast_at_any_rank():
    """Its r terms are equal and add up, so each takes 1 / r of a step of Adam."""
    kernel = jnp.asarray(make(HUT(rank=1), 5, 3)[1])

    def learned(hut, multipliers):
        factors = {"a": jnp.zeros((5, hut.rank)), "b": jnp.zeros((hut.rank, 3))}
        for _ in range(3):
            gradient = jax.grad(lambda f: jnp.sum((hut.weight(kernel, f) - 1) ** 2))(factors)
            for name, leaf in factors.items():
                factors[name] = leaf - 0.1 * multipliers.get(name, 1.0) * jnp.sign(gradient[name])
        return hut.weight(kernel, factors)

    one, four = HUT(1), HUT(4, "sum")
    cases = [(one, one.learning_rate_multipliers), (four, four.learning_rate_multipliers), (four, {})]
    expected, found, without = jax.jit(lambda: [learned(*case) for case in cases])()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(without - expected).max() > 0.1


def combined(sets, weights):
    """The joint transformation and its factors."""
    huts, factors = zip(*sets, strict=True)
    joint = []

    @jax.jit
    def run(*factors):
        new, own = huts[0].combine([*zip(huts, factors, strict=True)], weights)
        joint.append(new)
        return own

    own = run(*factors)
    return joint[0], own


def test_sets_of_product_combine_their_first_terms_by_sum_and_the_others_exactly():
    """The ranks may differ. At rank 1 this is the sum of the deviations, as in every reading."""
    weights, huts = [0.7, -0.4], [HUT(rank=3, spread="product"), HUT(rank=2, spread="product")]
    (*_, one), (*_, two) = (make(hut, 6, 5) for hut in huts)
    two = {name: leaf[::-1] for name, leaf in two.items()}
    joint, factors = combined([*zip(huts, (one, two), strict=True)], weights)
    assert joint == HUT(rank=4, spread="product")
    assert {name: leaf.shape for name, leaf in factors.items()} == {"a": (6, 4), "b": (4, 5), "g": (5,), "s": (5,)}
    first = np.outer(
        1 + sum(w * f["a"][:, 0] for w, f in zip(weights, (one, two), strict=True)),
        1 + sum(w * f["b"][0] for w, f in zip(weights, (one, two), strict=True)),
    )
    others = sum(w * f["a"][:, 1:] @ f["b"][1:] for w, f in zip(weights, (one, two), strict=True))
    np.testing.assert_allclose(multiplier("product", factors["a"], factors["b"]), first + others, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(factors["g"], 0.7 * one["g"] - 0.4 * two["g"], rtol=1e-6, atol=1e-7)
    alone, same = combined([(huts[0], one)], [1.0])
    assert alone == huts[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), same, one)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (HUT(rank=3), "do not combine: their settings differ"),
        (HUT(rank=3, spread="product", scale=False), "do not combine: their settings differ"),
        (LoRA(rank=3), "hut and lora do not combine"),
    ],
)
def test_product_combines_with_nothing_else(other, message):
    hut = HUT(rank=3, spread="product")
    *_, factors = make(hut, 3, 3)
    with pytest.raises(UserError, match=message):
        combined([(hut, factors), (other, factors)], [0.5, 0.5])


@pytest.mark.parametrize(
    ("settings", "shape", "bias", "message"),
    [
        ({"rank": 5}, (12, 8), True, r"rank 5 does not divide .* \[12, 8\]; the nearest ranks that do: 2, 4$"),
        ({"rank": 7}, (24, 16), True, r"rank 7 does not divide .* \[24, 16\]; the nearest ranks that do: 4, 8$"),
        ({"rank": 8}, (12, 8), True, r"rank 8 does not divide"),
        ({"rank": 2}, (12, 8), False, r"needs a layer with a bias.*shift=False"),
        ({"rank": 0}, (12, 8), True, r"rank must be a whole number of at least 1, not 0"),
        ({"rank": 8, "spread": "kronecker"}, (12, 8), True, r"rank 8 does not divide"),
        ({"rank": 2, "spread": "kroneker"}, (12, 8), True, r"unknown spread 'kroneker'; did you mean 'kronecker'\?"),
        ({"rank": 2, "spread": "product"}, (12, 8), False, r"needs a layer with a bias.*shift=False"),
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
