"""Parameters as users give them: mistakes are one line, boxes are opened and put back."""

import collections

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hut_jax import HUT, Adapter, Bank, Full, LoRA, UserError, fingerprint, load_adapter, save_adapter

MODEL = nn.Sequential([nn.Dense(6), nn.Dense(2)])
X = np.ones((3, 4), np.float32)


def shaped(model, *inputs):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(random.standard_normal(leaf.shape), leaf.dtype), shapes)


PARAMS = shaped(MODEL, X)
LAYERS = Adapter(LoRA(rank=2), "layers")
VARIABLES = {"params": PARAMS, "batch_stats": {"norm": {"mean": np.ones(3)}}}


def factors():
    return shaped_like(LAYERS, PARAMS)


def shaped_like(adapter, params):
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), shapes)


class Wrapper:
    """As transformers' Flax models, which hold a Linen model."""

    module = MODEL


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Adapter("hut", "query"), r"transform= is the text 'hut': give the transformation.* hut_jax.HUT\(\)"),
        (lambda: Adapter("query", HUT()), "the order is Adapter\\(transform, targets"),
        (lambda: Adapter(HUT), r"transform= is the class HUT: give one of it, HUT\(\)"),
        (lambda: Adapter(None), "transform= is None, and no transformation such as hut_jax.HUT"),
        (lambda: LAYERS.init(PARAMS, jax.random.key(0)), r"the order is adapter.init\(key, params\)"),
        (lambda: LAYERS.init(jax.random.key(0), jax.random.key(0)), r"params= is a key: the order is adapter.init"),
        (lambda: LAYERS.init(jax.random.key(0), MODEL), "params= is a model, Sequential, and not its parameters"),
        (lambda: LAYERS.init(jax.random.key(0), nn.Dense), "params= is a model, Dense, and not its parameters"),
        (lambda: LAYERS.init(jax.random.key(0), "base"), "params= is of type str; params= are a tree of arrays"),
        (lambda: LAYERS.init(jax.random.key(0), jnp.ones(3)), "params= is one array"),
        (lambda: LAYERS.apply(PARAMS, MODEL, factors(), X), r"order is adapter.apply\(model, params, factors"),
        (lambda: LAYERS.apply(nn.Sequential, PARAMS, factors(), X), "model= is the class Sequential: give a model"),
        (lambda: LAYERS.apply(Wrapper(), PARAMS, factors(), X), "Wrapper wraps a Linen model: give that, model.module"),
        (lambda: LAYERS.apply(len, PARAMS, factors(), X), "no Linen model"),
        (lambda: LAYERS.apply(MODEL, {"params": PARAMS}, factors(), X), r'variables\["params"\]'),
        (lambda: LAYERS.init(0, PARAMS), r"key= is of type int, and no key: give one, such as jax.random.key\(0\)"),
        (lambda: LAYERS.init(None, PARAMS), "key= is of type NoneType, and no key"),
        (
            lambda: LAYERS.init(jax.random.key(0), VARIABLES),
            r'"params" and \'batch_stats\': give variables\["params"\]',
        ),
        (lambda: LAYERS.apply(MODEL, VARIABLES, factors(), X), r'all variables, "params" and|params= has an entry'),
        (lambda: Adapter([MODEL]), "transform= is of type list, and no transformation"),
        (lambda: Adapter(HUT(), [MODEL]), "a pattern is a text, .* and one is a Sequential"),
        (lambda: LAYERS.merge(factors(), PARAMS), "has nothing to act on: params= are the base's parameters"),
        (lambda: LAYERS.merge(PARAMS, None), "factors= is of type NoneType"),
    ],
)
def test_a_mistaken_argument_is_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_what_is_of_nnx_is_one_line():
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    for params in (nnx.state(model), model):
        with pytest.raises(UserError, match=r"params= is of NNX's type .*, and Sequential is a Linen model"):
            LAYERS.apply(MODEL, params, factors(), X)
    with pytest.raises(UserError, match=r"Linear is an NNX model: adapt it with hut_jax.nnx.adapt"):
        LAYERS.apply(model, PARAMS, factors(), X)


def boxed_model(logical):
    box = nn.with_logical_partitioning if logical else nn.with_partitioning
    kernel = box(nn.initializers.lecun_normal(), ("embed", "heads", "kv"))
    bias = box(nn.initializers.ones, ("heads", "kv"))
    return nn.Sequential([nn.DenseGeneral((2, 3), kernel_init=kernel, bias_init=bias), nn.Dense(2)])


@pytest.mark.parametrize("logical", [False, True])
def test_factors_carry_the_names_of_the_axes_that_they_share_with_a_kernel(logical, tmp_path):
    model, x = boxed_model(logical), X
    params = shaped(model, x)
    box = type(params["layers_0"]["kernel"])
    assert issubclass(box, nn.Partitioned)
    adapter = Adapter(HUT(rank=2), "layers_0")
    made = adapter.init(jax.random.key(0), params)["layers_0"]
    assert {name: own.names for name, own in made.items()} == {
        "a": ("embed", None),
        "b": (None, "heads"),
        "g": ("heads",),
        "s": ("heads",),
    }
    own = {
        "layers_0": {
            name: leaf.replace(value=np.full(leaf.value.shape, 0.1, np.float32)) for name, leaf in made.items()
        }
    }
    plain = nn.meta.unbox(params)
    merged, bare = adapter.merge(params, own), adapter.merge(plain, nn.meta.unbox(own))
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, nn.meta.unbox(merged), bare)
    assert jax.tree.structure(adapter.unmerge(merged, adapter.kept(params))) == jax.tree.structure(params)

    # The rest of the library takes them too.
    assert adapter.count(params) == adapter.count(plain)
    assert fingerprint(params) == fingerprint(plain)
    save_adapter(tmp_path, adapter, own, params)
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path, params)[1], nn.meta.unbox(own))
    bank = Bank(adapter, params)
    bank["one"] = own
    assert jax.tree.structure(bank.stacked()) == jax.tree.structure(bank.off)
    tx = adapter.optimizer(optax.adamw, 1e-2, params=params)
    updates, _ = tx.update(own, tx.init(own), own)
    assert jax.tree.structure(updates) == jax.tree.structure(own)


@pytest.mark.full
def test_a_frozen_tree_stays_frozen():
    merged = LAYERS.merge(flax.core.freeze(PARAMS), factors())
    assert isinstance(merged, flax.core.FrozenDict)
    jax.tree.map(np.testing.assert_array_equal, merged.unfreeze(), LAYERS.merge(PARAMS, factors()))


@flax.struct.dataclass
class Quantised:
    """An array type of another library's."""

    values: np.ndarray
    scale: np.ndarray

    @property
    def shape(self):
        return self.values.shape

    @property
    def dtype(self):
        return self.values.dtype


@pytest.mark.parametrize(
    "kernel",
    [
        np.ones((4, 6), np.int8),
        Quantised(np.ones((4, 6), np.int8), np.ones(6, np.float32)),
        np.ones((4, 6), jnp.float8_e4m3fn),
        np.ones((4, 6), np.complex64),
    ],
    ids=["int8", "another type", "8-bit floats", "complex"],
)
def test_a_kernel_that_is_no_array_of_floats_is_refused_or_left_alone(kernel):
    params = {"q": {"kernel": kernel}, "out": PARAMS["layers_1"]}
    for transform in (LoRA(rank=2), HUT(rank=2), Full()):
        with pytest.raises(
            UserError,
            match=r"q/kernel is .*(dequantised array there, or|complex.*:) leave it out with exclude='\^q/k",
        ):
            Adapter(transform, "q" if transform.whole_leaves else "all-linear").sites(params)
    adapter = Adapter(LoRA(rank=2), "all-linear", exclude="^q/kernel$")
    merged = adapter.merge(params, shaped_like(adapter, params))
    assert merged["q"]["kernel"] is kernel
    assert fingerprint(params)


def test_shapes_alone_are_enough_to_make_factors():
    made = LAYERS.init(jax.random.key(0), jax.eval_shape(lambda: PARAMS))
    jax.tree.map(np.testing.assert_array_equal, made, LAYERS.init(jax.random.key(0), PARAMS))


def test_a_merged_tree_keeps_what_is_empty_and_the_types_of_dicts():
    params = {**PARAMS, "layers_0": flax.core.freeze(PARAMS["layers_0"]), "empty": {}}
    params["layers_1"] = collections.OrderedDict(PARAMS["layers_1"])
    merged = LAYERS.merge(params, factors())
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert np.abs(merged["layers_1"]["kernel"] - params["layers_1"]["kernel"]).max() > 1e-3


def test_only_values_that_were_finite_must_be_so_when_merged():
    blocked = {"kernel": PARAMS["layers_1"]["kernel"], "bias": np.array([-np.inf, 0], np.float32)}
    params = {**PARAMS, "layers_1": blocked}
    merged = LAYERS.merge(params, factors())
    np.testing.assert_array_equal(merged["layers_1"]["bias"], blocked["bias"])
    wrong = jax.tree.map(lambda leaf: np.full_like(leaf, np.inf), factors())
    with pytest.raises(UserError, match="layers_0/kernel has values that are not finite"):
        LAYERS.merge(params, wrong)


def test_all_linear_leaves_out_what_cannot_be_laid_out_and_says_so():
    params = {**PARAMS, "experts_of_mine": {"kernel": np.ones((2, 3, 4, 5), np.float32)}, "odd": {"kernel": ODD}}
    adapter = Adapter(LoRA(rank=2), "all-linear", layout={"experts": "lioo"})
    assert {site.path[0] for site in adapter.sites(params)} == {"layers_0", "layers_1", "experts_of_mine"}
    assert "left out, for want of a layout=, 1: 'odd/kernel'" in adapter.report(params)
    assert "left out" not in LAYERS.report(PARAMS)
    for targets in ("odd", ["all-linear", "odd"]):
        with pytest.raises(UserError, match="odd: cannot tell which axes"):
            Adapter(LoRA(rank=2), targets).sites(params)
    with pytest.raises(UserError, match="odd: cannot tell which axes"):
        Adapter(LoRA(rank=2), "all-linear").sites({"odd": {"kernel": ODD}})


ODD = np.ones((3, 4, 5), np.float32)


def test_factors_that_would_lie_among_those_of_a_layer_further_up_are_refused():
    params = {"d": {"kernel": X.T, "a": {"x": {"kernel": X}}}}
    with pytest.raises(UserError, match="the factors of d/a/x would lie where those of d are"):
        Adapter(LoRA(rank=2), "d").sites(params)
