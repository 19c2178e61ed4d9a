"""Which kernels are merged before a model runs, what then cannot be done, and what is remembered of a model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import HUT, Adapter, LoRA, UserError
from hut_jax.adapters import running
from tests.adapters.zoo import CASES, SEQUENCE, Block, X

DRAWN = np.random.default_rng(5)


def drawn(tree, size=0.5):
    return jax.tree.map(lambda leaf: np.float32(size * DRAWN.standard_normal(leaf.shape)), tree)


def params_of(model, *inputs):
    return drawn(jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"])


def factors_of(adapter, params, sets=()):
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    return drawn(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*sets, *leaf.shape), leaf.dtype), shapes))


@pytest.fixture
def traces(monkeypatch):
    """What traces tell, as they are made."""
    made = []
    trace = running.trace_marked

    def spy(*args):
        made.append(trace(*args))
        return made[-1]

    monkeypatch.setattr(running, "trace_marked", spy)
    return made


def both(adapter, model, params, factors, *inputs, **options):
    """What runs adapted, and the merged model."""
    got = adapter.apply(model, params, factors, *inputs, **options)
    return got, model.apply({"params": adapter.merge(params, factors)}, *inputs, **options)


def same(adapter, model, params, factors, *inputs):
    got, expected = jax.jit(lambda factors: both(adapter, model, params, factors, *inputs))(factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)
    return got


class Jitted(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.jit(Block)(name="b")(x)[0]


def test_a_jit_within_a_model_traces_each_adapter_by_itself():
    params = params_of(Jitted(), X)
    outputs = []
    for transform in (LoRA(rank=2), LoRA(rank=2, alpha=1.0), HUT(rank=2), HUT(rank=2, spread="cyclic")):
        adapter = Adapter(transform, "up")
        outputs.append(adapter.apply(Jitted(), params, factors_of(adapter, params), X))
        got, expected = both(adapter, Jitted(), params, factors_of(adapter, params), X)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    plain = Jitted().apply({"params": params}, X)
    for one in outputs:
        assert np.abs(one - plain).max() > 1e-2


class Tied(nn.Module):
    """One kernel that something else reads, and one that nothing else does."""

    def setup(self):
        self.tied, self.alone = nn.Dense(4), nn.Dense(4)

    def __call__(self, x, deterministic=True):
        return self.alone(self.tied(x)) @ self.tied.variables["params"]["kernel"].T


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter_ids": np.zeros(3, np.int32)}, "so rows cannot have factors of their own"),
        ({"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}, "so its dropout cannot act"),
    ],
)
def test_what_only_a_layer_itself_can_do_is_refused_where_a_kernel_must_be_merged(options, message):
    params = params_of(Tied(), X)
    sets = (2,) if "adapter_ids" in options else ()
    adapter = Adapter(LoRA(rank=2, dropout=0.5), ["tied", "alone"])
    with pytest.raises(UserError, match=rf"tied/kernel must be merged.*{message}: something else reads its kernel too"):
        adapter.apply(Tied(), params, factors_of(adapter, params, sets), X, **options)
    alone = Adapter(LoRA(rank=2, dropout=0.5), "alone")
    assert alone.apply(Tied(), params, factors_of(alone, params, sets), X, **options).shape == (3, 4)
    same(adapter, Tied(), params, factors_of(adapter, params), X)


def test_the_reason_names_what_a_scan_would_need():
    case = CASES["scan without an axis"]
    params = params_of(case.model, X)
    adapter = Adapter(LoRA(rank=2), "up")
    with pytest.raises(UserError, match=r'variable_axes=\{"params": 0, "adapter": 0\}'):
        adapter.apply(case.model, params, factors_of(adapter, params, (2,)), X, adapter_ids=np.zeros(3, np.int32))


class Manual(nn.Module):
    """A layer that the model never calls, and whose kernel it reads or not."""

    read: bool

    @nn.compact
    def __call__(self, x):
        if self.is_initializing():
            return nn.Dense(4, name="hidden")(x)
        return x @ self.variables["params"]["hidden"]["kernel"] if self.read else x


@pytest.mark.parametrize("read", [True, False])
def test_a_kernel_that_is_never_called_is_what_merging_makes_of_it(read):
    params = params_of(Manual(True), X)
    adapter = Adapter(HUT(rank=2), "hidden")
    got = same(adapter, Manual(read), params, factors_of(adapter, params), X)
    assert (np.abs(got - Manual(read).apply({"params": params}, X)).max() > 1e-2) == read


class NeedsValues(nn.Module):
    """A model that cannot be traced."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(4, name="d")(x)
        return y if float(x.sum()) > 0 else -y


def test_a_model_that_cannot_be_traced_runs_on_merged_parameters(traces):
    model = NeedsValues()
    params = {"d": params_of(nn.Sequential([nn.Dense(4)]), X)["layers_0"]}
    adapter = Adapter(HUT(rank=2), "d")
    factors = factors_of(adapter, params)
    np.testing.assert_array_equal(*both(adapter, model, params, factors, X))
    assert "cannot be traced" in traces[0].failed
    with pytest.raises(UserError, match=r"the model cannot be traced \(ConcretizationTypeError\)"):
        adapter.apply(model, params, factors_of(adapter, params, (2,)), X, adapter_ids=np.zeros(3, np.int32))


def test_an_error_of_the_models_own_is_the_models_own():
    params = params_of(nn.Sequential([nn.Dense(4)]), X)
    adapter = Adapter(HUT(rank=2), "layers")
    with pytest.raises(nn.module.errors.ScopeParamShapeError):
        adapter.apply(nn.Sequential([nn.Dense(4)]), params, factors_of(adapter, params), X[:, :2])


def test_an_interceptor_of_the_users_sees_each_layer_once_and_plainly():
    model = nn.Sequential([nn.Dense(4), nn.Dense(2)])
    params = params_of(model, X)
    adapter = Adapter(LoRA(rank=2), "layers_0")
    factors = factors_of(adapter, params)
    seen = []

    def doubled(next_fun, args, kwargs, context):
        y = next_fun(*args, **kwargs)
        if not isinstance(context.module, nn.Dense):
            return y
        seen.append(context.module.name)
        return 2 * y

    with nn.intercept_methods(doubled):
        got, expected = jax.jit(lambda factors: both(adapter, model, params, factors, X))(factors)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert seen == ["layers_0", "layers_1"] * 2


class Flagged(nn.Module):
    """A model whose flag decides whether the kernel is read elsewhere too."""

    @nn.compact
    def __call__(self, x, tied, notes=None):
        dense = nn.Dense(4, name="d")
        y = dense(x)
        return y @ dense.variables["params"]["kernel"].T if tied else y


def test_what_a_flag_changes_is_found_for_each_flag():
    params = {"d": params_of(nn.Sequential([nn.Dense(4)]), X)["layers_0"]}
    adapter = Adapter(LoRA(rank=2), "d")
    factors = factors_of(adapter, params)
    for notes in (None, {1, 2}):  # a set has no hash
        for tied in (False, True, 0, 1):
            same(adapter, Flagged(), params, factors, X, tied, notes)


def test_what_a_model_returns_beside_its_output_is_the_merged_models():
    model = CASES["batch norm"].model
    x = SEQUENCE[0]
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    params, others = drawn(variables["params"]), {"batch_stats": drawn(variables["batch_stats"])}
    adapter = Adapter(HUT(rank=2), "d")
    factors = factors_of(adapter, params)

    @jax.jit
    def run(factors):
        merged = {"params": adapter.merge(params, factors), **others}
        return [
            (
                adapter.apply(model, params, factors, x, collections=others, mutable=mutable, **options),
                model.apply(merged, x, mutable=mutable, **options),
            )
            for mutable, options in (
                (["batch_stats", "intermediates"], {"capture_intermediates": True}),
                (True, {}),
                (nn.DenyList("params"), {}),
            )
        ]

    for got, expected in run(factors):
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_a_method_of_the_models_runs_adapted():
    class Two(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(4), nn.Dense(4)

        def __call__(self, x):
            return self.b(self.a(x))

        def first(self, x, scale=1.0):
            return scale * self.a(x)

    params = params_of(Two(), X)
    adapter = Adapter(HUT(rank=2), ["a", "b"])
    factors = factors_of(adapter, params)
    for method in ("first", Two.first, lambda model, x: model.b(jnp.tanh(model.first(x, scale=2.0)))):
        got, expected = both(adapter, Two(), params, factors, X, method=method)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


class Sharded(nn.Module):
    """A model with an argument that the adapter has too."""

    @nn.compact
    def __call__(self, x, shards=2):
        return nn.Dense(4, name="d")(x) * shards


def test_an_argument_that_both_have_is_refused_by_name_and_the_advice_works():
    params = {"d": params_of(nn.Sequential([nn.Dense(4)]), X)["layers_0"]}
    adapter = Adapter(LoRA(rank=2), "d")
    factors = factors_of(adapter, params)
    for shards in (1, 3):
        with pytest.raises(UserError, match=r"shards= is an argument of adapter.apply and one of Sharded too"):
            adapter.apply(Sharded(), params, factors, X, shards=shards)
    got = adapter.apply(Sharded(), params, factors, X, method=lambda model, *args: model(*args, shards=5), shards=1)
    expected = Sharded().apply({"params": adapter.merge(params, factors)}, X, 5)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(adapter.apply(Sharded(), params, factors, X, 5), expected, rtol=1e-5, atol=1e-5)
