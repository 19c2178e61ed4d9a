"""Every module of the zoo: the base at zero factors, to the bit; what `merge` computes; the gradients through it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hut_jax.nnx
from hut_jax import HUT, IA3, SSF, Adapter, DoRA, LoRA
from hut_jax.core.any_tree import flatten_any
from hut_jax.nnx import Factors
from hut_jax.transforms.spread import SPREADS
from tests.nnx.zoo import KINDS
from tests.parity import WITHOUT_YNNPACK

METHODS = [
    *(HUT(rank=2, spread=spread) for spread in SPREADS),
    HUT(rank=1),
    LoRA(rank=2),
    DoRA(rank=2),
    IA3(),
    SSF(),
]
QUICK = ("linear", "einsum", "tied embedding", "weight norm")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (n not in QUICK)) for n in KINDS])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # some of Flax's modules use what Flax has deprecated
def test_an_adapted_module_is_the_base_at_zero_and_what_merge_gives_otherwise(name):
    kind = KINDS[name]
    model = kind.make(nnx.Rngs(0))
    random = np.random.default_rng(1)
    for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):  # a bias of zeros would hide that it is left out
            leaf.set_value(leaf.get_value() + np.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype))
    methods = METHODS[:1] if name in QUICK else METHODS
    parts = [hut_jax.nnx.adapt(model, Adapter(t, kind.targets), rngs=nnx.Rngs(1)) for t in methods]
    split = [nnx.split(part, Factors, ...) for part in parts]
    drawn = [jax.tree.map(lambda leaf: np.float32(0.3 * random.standard_normal(leaf.shape)), f) for _, f, _ in split]

    def call(module, inputs):
        return getattr(module, kind.method)(*inputs)

    # On some CPUs the library takes the products of an ensemble's members on one input, but not those on scaled inputs.
    @functools.partial(jax.jit, compiler_options=WITHOUT_YNNPACK)
    def run(given, inputs):
        out = []
        for (graph, _, _), (start, factors, rest) in zip(split, given, strict=True):

            def adapted(factors, graph=graph, rest=rest):
                return call(nnx.merge(graph, factors, rest, copy=True), inputs)

            def merged(factors, graph=graph, rest=rest):
                return call(hut_jax.nnx.merge(nnx.merge(graph, factors, rest, copy=True)), inputs)

            def square(factors, run):
                outputs = run(factors)
                return jnp.sum(jnp.square(outputs.astype(jnp.float32))), outputs

            ways = [jax.grad(square, has_aux=True)(factors, one) for one in (adapted, merged)]
            out.append((adapted(start), *(y for _, y in ways), *(flatten_any(gradient) for gradient, _ in ways)))
        return out

    graph, state = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=WITHOUT_YNNPACK)
    def run_base(state, inputs):
        return call(nnx.merge(graph, state, copy=True), inputs)

    base = np.float32(run_base(state, kind.inputs))
    given = [(start, factors, rest) for (_, start, rest), factors in zip(split, drawn, strict=True)]
    tolerance = 5e-2 if "bf16" in name else 1e-5
    for transform, (zero, *outputs, ours, wanted) in zip(methods, run(given, kind.inputs), strict=True):
        np.testing.assert_array_equal(np.float32(zero), base, err_msg=str(transform))
        adapted, merged = map(np.float32, outputs)
        size = max(np.abs(merged).max(), 1)
        np.testing.assert_allclose(adapted, merged, rtol=tolerance, atol=tolerance * size, err_msg=str(transform))
        assert np.abs(adapted - base).max() > 100 * tolerance * size or "bf16" in name
        largest = max(np.abs(leaf).max() for leaf in wanted.values())
        assert largest > 0
        for path, gradient in wanted.items():
            np.testing.assert_allclose(
                ours[path], gradient, rtol=10 * tolerance, atol=10 * tolerance * largest, err_msg=f"{transform} {path}"
            )
