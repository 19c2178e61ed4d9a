"""Every kind of Linen model: zero factors are the base to the bit, and what runs adapted is the merged model."""

import functools
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, IA3, SSF, Adapter, DoRA, LoRA
from hut_jax.adapters import running
from hut_jax.transforms.spread import SPREADS
from tests.adapters.zoo import CASES

TRANSFORMS = {
    **{spread: HUT(rank=2, spread=spread) for spread in SPREADS},
    "rank 1": HUT(rank=1),
    "lora": LoRA(rank=2),
    "dora": DoRA(rank=2),
    "ia3": IA3(),
    "ssf": SSF(),
}
QUICK = {
    "one dense",
    "einsum",
    "tied head",
    "weight norm",
    "a collection of its own",
    "a kernel stored transposed",
    "share_scope",
    "scan without an axis",
    "partitioned",
}
"""The cases of the quick tests, with two transformations each."""


def drawn(shapes, name, size):
    """Random floats of these shapes, boxes and all; other leaves are zeros."""
    random = np.random.default_rng(zlib.crc32(name.encode()))

    def draw(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        return np.asarray(size * random.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


@functools.cache
def base(name):
    """The case, its parameters, all of them set, and its other variables."""
    case = CASES[name]
    call = {key: value for key, value in case.call.items() if key != "rngs"}
    variables = jax.eval_shape(
        functools.partial(case.model.init, **call),
        {"params": jax.random.key(0), "dropout": jax.random.key(1)},
        *case.inputs,
    )
    variables = drawn(variables, name, 0.5)
    # Running statistics and scales are positive.
    others = {key: jax.tree.map(np.abs, own) for key, own in variables.items() if key != "params"}
    params = variables["params"]
    return case, params if case.convert is None else case.convert(params), others


def loss(y):
    return sum(jnp.sum(jnp.sin(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(y))


def programs(name, transforms):
    """One compiled function of all transformations' factors, and the plain model's output."""
    case, params, others = base(name)
    options = dict(case.call)
    if case.mutable:
        options["mutable"] = list(case.mutable)
    adapters = [Adapter(one, case.targets, **case.adapter) for one in transforms]

    def plain(params):
        return case.model.apply({**others, "params": params}, *case.inputs, **options)

    def output(y):
        return y[0] if case.mutable else y

    def ways(adapter, factors, params):
        def adapted(factors):
            y = adapter.apply(case.model, params, factors, *case.inputs, collections=others, **options)
            return loss(output(y)), y

        def merged(factors):
            y = plain(adapter.merge(params, factors))
            return loss(output(y)), y

        if not case.differentiable:
            return [(way(factors), ()) for way in (adapted, merged)]
        return [jax.value_and_grad(way, has_aux=True)(factors) for way in (adapted, merged)]

    def run(params, factors):
        return [ways(*pair, params) for pair in zip(adapters, factors, strict=True)]

    def forward(params, factors):
        outputs = [
            adapter.apply(case.model, params, own, *case.inputs, collections=others, **options)
            for adapter, own in zip(adapters, factors, strict=True)
        ]
        return outputs, plain(params)

    shapes = [jax.eval_shape(adapter.init, jax.random.key(0), params) for adapter in adapters]
    return params, adapters, shapes, jax.jit(run), jax.jit(forward)


@pytest.fixture
def in_layers(monkeypatch):
    """The kernels that ran adapted in their layers, in all runs so far but traces."""
    seen = set()
    run = running.Call.run

    def spy(self, params, factors):
        seen.update(path[:-1] for path, here in factors.items() if not here.mark)
        return run(self, params, factors)

    monkeypatch.setattr(running.Call, "run", spy)
    return seen


def close(one, other, tolerance, what):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()), err_msg=what)


def check(name, transforms, in_layers):
    case = CASES[name]
    params, adapters, shapes, run, forward = programs(name, list(transforms.values()))
    sites = {site.path for site in adapters[0].sites(params)}
    assert sites == case.here | case.merged

    results = run(params, [drawn(shape, name, 0.3) for shape in shapes])
    assert in_layers == case.here
    zero, plain = forward(params, [drawn(shape, name, 0.0) for shape in shapes])
    for label, (adapted, merged), at_zero in zip(transforms, results, zero, strict=True):
        close(adapted[0], merged[0], case.tolerance, f"{label}: outputs")
        close(adapted[1], merged[1], 10 * case.tolerance, f"{label}: gradients")
        changed = max(
            float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
            for a, b in zip(jax.tree.leaves(adapted[0][1]), jax.tree.leaves(plain), strict=True)
        )
        assert changed > 3e-3, label
        for a, b in zip(jax.tree.leaves(at_zero), jax.tree.leaves(plain), strict=True):
            rtol = 1e-6 if label in case.rounded else 0
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=f"{label}: outputs at zero factors")
        assert not case.differentiable or any(np.asarray(leaf).any() for leaf in jax.tree.leaves(adapted[1])), label


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_model_with_factors_is_the_merged_model(name, in_layers):
    check(name, {key: TRANSFORMS[key] for key in ("block", "lora")}, in_layers)


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_every_transformation_on_every_model(name, in_layers):
    check(name, TRANSFORMS, in_layers)


def test_the_zoo_is_large():
    assert len(CASES) >= 40
    assert CASES.keys() >= QUICK
    assert all(isinstance(case.model, nn.Module) for case in CASES.values())
