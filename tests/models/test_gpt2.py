"""GPT-2's computation: against transformers' golden logits, and each way to run it against the plain one."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import stack_layers, unstack_layers
from hut_jax.models.compute import Compute
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params, load_pretrained
from tests.goldens.archives import golden_models
from tests.parity import change, check_parity

GOLDENS = sorted(golden_models().glob("gpt2_*/"))
CONFIG = GPT2Config(vocab_size=23, n_positions=12, n_embd=8, n_layer=2, n_head=2)
BATCH, LENGTH = 3, 10
LEFT_PADDED = np.arange(LENGTH) >= np.array([[0], [4], [9]])
POSITIONS = np.maximum(np.cumsum(LEFT_PADDED, 1) - 1, 0)


@partial(jax.jit, static_argnums=0, static_argnames=("method", "deterministic"))
def run(model, params, *args, **kwargs):
    return model.apply({"params": params}, *args, **kwargs)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(0, CONFIG.vocab_size, (BATCH, LENGTH), np.int32)


@pytest.fixture(scope="module")
def params():
    return noise(GPT2(CONFIG))


def noise(model):
    """Parameters random everywhere: the start's zeros and ones would hide a bias or a norm left out."""
    random = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(shapes(model), is_leaf=lambda leaf: isinstance(leaf, tuple))
    return jax.tree.unflatten(tree, [random.normal(0, 0.3, shape).astype(np.float32) for shape in leaves])


def key(seed):
    return jax.random.key(seed, impl="rbg")  # compiles much faster than the default


def shapes(model):
    tree = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def stacked(layers):
    return jax.device_get(stack_layers(layers))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scan_layers", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize("folder", GOLDENS, ids=lambda folder: folder.name)
def test_logits_equal_transformers(folder, scan_layers):
    model, params = load_pretrained(folder, compute=Compute(scan_layers=scan_layers))
    golden = load_file(folder / "golden.safetensors")
    expected, real = golden.pop("logits"), golden["attention_mask"].astype(bool)
    ours, changed = (np.asarray(run(model, given, **golden))[real] for given in (params, change(params)))
    check_parity(ours, expected[real], changed, 1e-4)


def test_there_are_goldens():
    assert len(GOLDENS) >= 7


def test_parameter_tree():
    d, norm = 8, {"scale": (8,), "bias": (8,)}
    dense = {"kernel": (d, d), "bias": (d,)}
    layer = {
        "attention_norm": norm,
        "attention": {"query": dense, "key": dense, "value": dense, "out": dense},
        "mlp_norm": norm,
        "mlp": {
            "up": {"kernel": (d, 4 * d), "bias": (4 * d,)},
            "down": {"kernel": (4 * d, d), "bias": (d,)},
        },
    }
    assert shapes(GPT2(CONFIG)) == {
        "token_embedding": {"embedding": (23, d)},
        "position_embedding": {"embedding": (12, d)},
        **{f"layer_{i}": layer for i in range(2)},
        "final_norm": norm,
    }


def test_scanned_tree_is_the_stacked_plain_one(params):
    own = stacked(params)
    assert shapes(GPT2(CONFIG, scan_layers=True)) == jax.tree.map(np.shape, own)
    back = unstack_layers(own)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_untied_head_is_a_kernel_of_its_own():
    config = GPT2Config(23, 12, 8, 1, 2, tie_word_embeddings=False)
    assert shapes(GPT2(config))["lm_head"] == {"kernel": (8, 23)}


@pytest.mark.full
@pytest.mark.parametrize("scan_layers", [False, True])
def test_start_is_gpt2s(scan_layers):
    config = GPT2Config(100, 64, 64, 2, 2, initializer_range=0.05)
    params = jax.device_get(init_params(GPT2(config, scan_layers=scan_layers), key(0)))
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.endswith(("bias", "scale")):
            np.testing.assert_array_equal(leaf, float(path.endswith("scale")))
        else:
            residual = path.endswith(("out/kernel", "down/kernel"))
            assert np.std(leaf) == pytest.approx(0.05 / (2 if residual else 1), rel=0.05), path
            assert abs(np.mean(leaf)) < 0.005
    if scan_layers:
        query = params["layers"]["attention"]["query"]["kernel"]
        assert not np.array_equal(query[0], query[1])


@partial(jax.jit, static_argnums=2)
@jax.value_and_grad
def squares(params, ids, model):
    return jnp.square(model.apply({"params": params}, ids, LEFT_PADDED)).mean()


@pytest.mark.parametrize(
    ("remat", "scan_layers"),
    [
        ("dots", True),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (("full", False), ("dots", False), ("none", True), ("full", True))
        ),
    ],
)
def test_remat_and_scan_equal_plain(params, ids, remat, scan_layers):
    config = GPT2Config(23, 12, 8, 2, 2, scale_attn_by_inverse_layer_idx=True)
    expected, expected_grads = squares(params, ids, GPT2(config))
    model = GPT2(config, remat=remat, scan_layers=scan_layers)
    value, grads = squares(stacked(params) if scan_layers else params, ids, model)
    close(value, expected)
    grads = unstack_layers(jax.device_get(grads)) if scan_layers else grads
    jax.tree.map(lambda a, b: close(a, b, 1e-4), grads, expected_grads)
    for path, grad in flatten_dict(grads, sep="/").items():
        # Softmax ignores what is added to every key alike, so that the key's bias alone has none.
        assert path.endswith("key/bias") or np.abs(grad).max() > 1e-6, path


@pytest.mark.full
def test_remat_keeps_dropout(params, ids):
    given = stacked(params)

    def gradients(remat):
        model = GPT2(CONFIG, remat=remat, scan_layers=True)

        def loss(params, dropout):
            return model.apply({"params": params}, ids, deterministic=False, rngs={"dropout": dropout}).var()

        compiled = jax.jit(jax.grad(loss))
        return [compiled(given, key(seed)) for seed in (5, 6)]

    expected, other = gradients("none")
    jax.tree.map(close, gradients("dots")[0], expected)
    kernels = [np.asarray(grads["layers"]["mlp"]["up"]["kernel"]) for grads in (expected, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2 * np.abs(kernels[0]).max()


@pytest.mark.full
def test_dropout_obeys_deterministic_and_its_rng(params, ids):
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

    plain = np.asarray(run(GPT2(GPT2Config(23, 12, 8, 1, 2)), params, ids))
    for name in names:
        model = GPT2(GPT2Config(23, 12, 8, 1, 2, **{**dict.fromkeys(names, 0.0), name: 0.5}))
        np.testing.assert_array_equal(run(model, params, ids), plain)
        first, again, other = (
            np.asarray(run(model, params, ids, deterministic=False, rngs={"dropout": key(i)})) for i in (0, 0, 1)
        )
        assert np.abs(first - plain).max() > 1e-2, name
        np.testing.assert_array_equal(again, first)
        assert np.abs(other - first).max() > 1e-2, name


@pytest.mark.full
def test_bf16_is_close_and_its_logits_are_fp32(params, ids):
    expected = np.asarray(run(GPT2(CONFIG), params, ids))
    for given in (params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)):
        logits = np.asarray(run(GPT2(CONFIG, dtype=jnp.bfloat16), given, ids))
        assert logits.dtype == np.float32
        assert np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()
    untied = GPT2(GPT2Config(23, 12, 8, 1, 2, tie_word_embeddings=False), dtype=jnp.bfloat16)
    logits = np.asarray(run(untied, noise(untied), ids))
    assert logits.dtype == np.float32
    assert (logits.astype(jnp.bfloat16) != logits).any()


@pytest.mark.full
def test_padding_does_not_leak(params, ids):
    model = GPT2(CONFIG)
    other = np.where(LEFT_PADDED, ids, (ids + 7) % CONFIG.vocab_size)
    a, b = (np.asarray(run(model, params, tokens, LEFT_PADDED)) for tokens in (ids, other))
    assert not np.array_equal(ids, other)
    np.testing.assert_array_equal(a[LEFT_PADDED], b[LEFT_PADDED])
    padded = np.asarray(run(model, params, ids, LEFT_PADDED, position_ids=POSITIONS))
    alone = np.concatenate([ids[1:2, 4:], ids[:1, :4]], 1)  # what follows changes nothing
    close(padded[1, 4:], run(model, params, np.tile(alone, (BATCH, 1)))[0, :6])


def test_no_position_sees_the_future(params, ids):
    model = GPT2(CONFIG)
    other = ids.copy()
    other[:, 6] = (other[:, 6] + 1) % 23
    a, b = (np.asarray(run(model, params, tokens)) for tokens in (ids, other))
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert (np.abs(a - b)[:, 6:].max(axis=(0, 2)) > 1e-3).all()


@pytest.mark.parametrize(
    ("steps", "scan_layers"),
    [
        ([7, 1, 1, 1], False),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (([7, 1, 1, 1], True), ([4, 6], False), ([4, 6], True))
        ),
    ],
)
def test_cached_equals_uncached(params, ids, scan_layers, steps):
    model = GPT2(CONFIG, scan_layers=scan_layers)
    own = stacked(params) if scan_layers else params
    for given in ({}, {"position_ids": POSITIONS}):
        expected = np.asarray(run(GPT2(CONFIG), params, ids, LEFT_PADDED, **given))
        cache = model.init_cache(BATCH, 12)
        mask = np.pad(LEFT_PADDED, ((0, 0), (0, 2)), constant_values=True)
        parts, start = [], 0
        for count in steps:
            here = {name: value[:, start : start + count] for name, value in given.items()}
            logits, cache = run(model, own, ids[:, start : start + count], mask, cache=cache, **here)
            parts.append(np.asarray(logits))
            start += count
        assert int(cache.index) == LENGTH
        close(np.concatenate(parts, 1)[LEFT_PADDED], expected[LEFT_PADDED])


def test_logits_at_and_hidden(params, ids):
    model = GPT2(CONFIG)
    expected = np.asarray(run(model, params, ids))
    at = np.array([0, 13, 29, 13])
    close(run(model, params, ids, logits_at=at), expected.reshape(-1, 23)[at])
    hidden = run(model, params, ids, method="hidden")
    assert hidden.shape == (BATCH, LENGTH, 8)
    close(run(model, params, hidden, method="logits"), expected)
    logits, _ = run(model, params, ids, cache=model.init_cache(BATCH, 12), logits_at=at)
    close(logits, expected.reshape(-1, 23)[at])


def test_logits_at_never_holds_the_other_logits(params, ids):
    def largest(**kwargs):
        traced = jax.make_jaxpr(lambda params: GPT2(CONFIG).apply({"params": params}, ids, **kwargs))(params)
        return [v.aval.shape for eqn in traced.eqns for v in eqn.outvars if v.aval.shape[-1:] == (23,)]

    assert (BATCH, LENGTH, 23) in largest()
    assert largest(logits_at=jnp.array([2, 5])) == [(2, 23)]


@pytest.mark.parametrize("remat", ["none", *(pytest.param(name, marks=pytest.mark.full) for name in ("dots", "full"))])
def test_a_collection_of_factors_follows_the_layers_under_scan(params, ids, remat):
    """A Linen interceptor with factors in a collection `adapter`, as adapters here are applied."""

    def scale(next_function, args, kwargs, context):
        y = next_function(*args, **kwargs)
        dense = isinstance(context.module, nn.Dense) and context.method_name == "__call__"
        if dense and context.module.has_variable("adapter", "g"):
            y = y * context.module.get_variable("adapter", "g")
        return y

    @partial(jax.jit, static_argnums=0)
    def adapted(model, params, factors):
        with nn.intercept_methods(scale):
            return model.apply({"params": params, "adapter": factors}, ids)

    factors = {
        f"layer_{i}": {"attention": {"query": {"g": np.linspace(1, 2 + i, 8, dtype=np.float32)}}}
        for i in range(CONFIG.n_layer)
    }
    plain, scanned = GPT2(CONFIG), GPT2(CONFIG, remat=remat, scan_layers=True)
    expected = np.asarray(adapted(plain, params, factors))
    close(adapted(scanned, stacked(params), stacked(factors)), expected)
    assert np.abs(expected - run(plain, params, ids)).max() > 1e-3


def test_too_long_names_both_numbers(params):
    model = GPT2(CONFIG)
    with pytest.raises(UserError, match=r"\b13\b.*\b12\b"):
        model.apply({"params": params}, jnp.zeros((1, 13), jnp.int32))
    with pytest.raises(UserError, match=r"\b14\b.*\b12\b"):
        model.init_cache(1, 14)


def test_a_full_cache_and_a_mask_of_another_length_are_refused(params, ids):
    model = GPT2(CONFIG)
    _, cache = run(model, params, ids, cache=model.init_cache(BATCH, 12))
    with pytest.raises(UserError, match=r"3 more tokens.*12 tokens and 10"):
        model.apply({"params": params}, ids[:, :3], cache=cache)
    with pytest.raises(UserError, match="covers 9 keys, not 10"):
        model.apply({"params": params}, ids, LEFT_PADDED[:, :9])
    with pytest.raises(UserError, match="covers 10 keys, not 12"):
        model.apply({"params": params}, ids[:, :1], LEFT_PADDED, cache=cache)


GIVEN = {"vocab_size": 23, "n_positions": 12, "n_embd": 8, "n_layer": 3, "n_head": 2}


def test_config_round_trip_and_what_it_ignores():
    values = {**GIVEN, "n_inner": None, "task_specific_params": {"x": 1}, "summary_type": "mean", "n_ctx": 12}
    config = GPT2Config.from_json({**values, "eos_token_id": [4, 5], "attn_pdrop": 0})
    assert config == GPT2Config(**GIVEN, eos_token_id=(4, 5), attn_pdrop=0.0)
    assert GPT2Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 3}, r"n_embd 8 is not divisible by n_head 3"),
        ({"activation_function": "gelu_neu"}, r"'gelu_neu'.*did you mean 'gelu_new'"),
        ({"add_cross_attention": True}, r"add_cross_attention"),
        ({"n_embd": "8"}, r"'n_embd' must be a whole number of at least 1, not '8'"),
        ({"n_layer": 0}, r"'n_layer' must be a whole number of at least 1, not 0"),
        ({"n_layer": True}, r"'n_layer' must be"),
        ({"resid_pdrop": 1.5}, r"resid_pdrop must be from 0 to 1, not 1.5"),
        ({"layer_norm_epsilon": None}, r"'layer_norm_epsilon' must be a number, not None"),
        ({"scale_attn_weights": 1}, r"'scale_attn_weights' must be true or false, not 1"),
        ({"eos_token_id": ["a"]}, r"'eos_token_id' must be a token id, a list of token ids, or null"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(UserError, match=message) as error:
        GPT2Config.from_json({**GIVEN, **change}, where="some/config.json")
    assert str(error.value).startswith("some/config.json: ")
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_texts_in_one_row_have_the_logits_that_they_have_alone(params):
    random = np.random.default_rng(2)
    one, two = (random.integers(0, CONFIG.vocab_size, (1, length), np.int32) for length in (9, 6))
    row = np.concatenate([one, two, np.zeros((1, 1), np.int32)], 1)  # longer than n_positions
    positions, segments = np.r_[0:9, 0:6, 0][None], np.array([[1] * 9 + [2] * 6 + [0]])
    together = run(GPT2(CONFIG), params, row, position_ids=positions, segment_ids=segments)
    close(together[:, :9], run(GPT2(CONFIG), params, one))
    close(together[:, 9:15], run(GPT2(CONFIG), params, two))
    mixed = run(GPT2(CONFIG), params, row[:, 6:], position_ids=positions[:, 6:])
    assert np.abs(mixed[:, 3:9] - together[:, 9:15]).max() > 1e-2  # the mask matters


@pytest.mark.parametrize("given", [{}, {"position_ids": np.zeros((BATCH, LENGTH), np.int32), "cache": True}])
def test_segments_need_positions_and_no_cache(params, ids, given):
    if "cache" in given:
        given = given | {"cache": GPT2(CONFIG).init_cache(BATCH, LENGTH)}
    with pytest.raises(UserError, match="segment_ids needs position_ids, and takes no cache"):
        run(GPT2(CONFIG), params, ids, segment_ids=np.ones_like(ids), **given)
