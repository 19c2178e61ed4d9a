"""The products of whole models in bf16, on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import Adapter, LoRA
from hut_jax.core import processor
from hut_jax.costs.flops import count_flops
from tests.core.test_products import IN_BF16
from tests.models.test_layers import FULL, MODELS, made

FAMILIES = [name if name == "decoder" else pytest.param(name, marks=FULL) for name in MODELS]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_product_of_a_step_has_a_result_in_bf16(family):
    """Neither those with kernels and in attention, nor LoRA's, nor those of their gradients."""
    model, params, ids, mask = made(family, 6)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    adapter = Adapter(LoRA(rank=2), targets="all-linear")

    def loss(both):
        return jnp.square(adapter.apply(model, *both, ids, mask)).sum()

    both = (half, adapter.init(jax.random.key(0), half))
    program = str(jax.make_jaxpr(jax.grad(loss))(both))
    assert len(re.findall(r"f32\[[^\]]*\] = dot_general", program)) > 40
    assert not re.search(IN_BF16, program)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_backward_pass_computes_no_more_in_bf16_than_in_fp32(family):
    def step(dtype):
        model, params, ids, mask = made(family, 6, dtype=dtype, remat="dots")
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        adapter = Adapter(LoRA(rank=2), targets="all-linear")
        factors = adapter.init(jax.random.key(0), params)
        return jax.value_and_grad(lambda factors: adapter.apply(model, params, factors, ids, mask).sum()), factors

    half, single = (count_flops(*step(dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    assert half.transcendentals == single.transcendentals
    # In bf16 a decoder's rotary positions are not computed again.
    assert half.flops < single.flops if family == "decoder" else half.flops == single.flops


@pytest.mark.parametrize("units", [True, pytest.param(False, marks=FULL)])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_bf16_are_those_in_fp32_but_for_rounding(family, units, monkeypatch):
    monkeypatch.setattr(processor, "has_matrix_units", lambda: units)
    model, params, ids, mask = made(family, 6)
    # Both begin with what bf16 holds, so that only the computation is rounded.
    params = jax.tree.map(lambda leaf: np.float32(jnp.asarray(0.3 * leaf, jnp.bfloat16)), params)

    def gradients(dtype):
        def loss(params):
            logits = model.clone(dtype=dtype).apply({"params": params}, ids, mask)
            return jnp.square(jnp.tanh(logits) - 0.5)[mask].sum()

        return jax.jit(jax.grad(loss))(params)

    got, want = (jax.tree.leaves(gradients(dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    for rounded, exact in zip(got, want, strict=True):
        assert np.linalg.norm(rounded - exact) <= 0.06 * np.linalg.norm(exact) + 1e-3
