"""GPT-2's computation: against transformers' golden logits, and each way to run it against the plain one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import stack_layers, unstack_layers
from hut_jax.models.attention import plain_attention
from hut_jax.models.compute import Compute
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params, load_pretrained
from tests.goldens.archives import golden_models

GOLDENS = sorted(golden_models().glob("gpt2_*/"))
CONFIG = GPT2Config(vocab_size=23, n_positions=12, n_embd=8, n_layer=2, n_head=2)
BATCH, LENGTH = 3, 10
LEFT_PADDED = jnp.arange(LENGTH) >= jnp.array([[0], [4], [9]])


@pytest.fixture(scope="module")
def ids():
    return jax.random.randint(jax.random.key(1), (BATCH, LENGTH), 0, CONFIG.vocab_size)


@pytest.fixture(scope="module")
def params():
    return noise(GPT2(CONFIG))


def noise(model):
    """Parameters random everywhere: the start's zeros and ones would hide a bias or a norm left out."""
    random = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(shapes(model), is_leaf=lambda leaf: isinstance(leaf, tuple))
    return jax.tree.unflatten(tree, [jnp.asarray(random.normal(0, 0.3, shape), jnp.float32) for shape in leaves])


def key(seed):
    return jax.random.key(seed, impl="rbg")  # compiles much faster than the default


def shapes(model):
    tree = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("folder", GOLDENS, ids=lambda folder: folder.name)
def test_logits_equal_transformers(folder, scan_layers):
    model, params = load_pretrained(folder, compute=Compute(scan_layers=scan_layers))
    golden = load_file(folder / "golden.safetensors")
    expected, real = golden.pop("logits"), golden["attention_mask"].astype(bool)
    logits = jax.jit(lambda params, inputs: model.apply({"params": params}, **inputs))(params, golden)
    close(logits[real], expected[real], 1e-4)


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
    stacked = stack_layers(params)
    assert shapes(GPT2(CONFIG, scan_layers=True)) == jax.tree.map(jnp.shape, stacked)
    back = unstack_layers(stacked)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_untied_head_is_a_kernel_of_its_own():
    config = GPT2Config(23, 12, 8, 1, 2, tie_word_embeddings=False)
    assert shapes(GPT2(config))["lm_head"] == {"kernel": (8, 23)}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_start_is_gpt2s(scan_layers):
    config = GPT2Config(100, 64, 64, 2, 2, initializer_range=0.05)
    params = init_params(GPT2(config, scan_layers=scan_layers), jax.random.key(0))
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


@pytest.mark.parametrize(
    ("remat", "scan_layers"), [("full", False), ("dots", False), ("none", True), ("full", True), ("dots", True)]
)
def test_remat_and_scan_equal_plain(params, ids, remat, scan_layers):
    config = GPT2Config(23, 12, 8, 2, 2, scale_attn_by_inverse_layer_idx=True)

    def loss(params, model):
        return jnp.square(model.apply({"params": params}, ids, LEFT_PADDED)).mean()

    expected, expected_grads = jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, GPT2(config))
    model = GPT2(config, remat=remat, scan_layers=scan_layers)
    given = stack_layers(params) if scan_layers else params
    value, grads = jax.jit(jax.value_and_grad(loss), static_argnums=1)(given, model)
    close(value, expected)
    grads = unstack_layers(grads) if scan_layers else grads
    jax.tree.map(lambda a, b: close(a, b, 1e-4), grads, expected_grads)
    for path, grad in flatten_dict(grads, sep="/").items():
        # Softmax ignores what is added to every key alike, so that the key's bias alone has none.
        assert path.endswith("key/bias") or np.abs(grad).max() > 1e-6, path


def test_remat_keeps_dropout(params, ids):
    given = stack_layers(params)

    def gradients(remat):
        model = GPT2(CONFIG, remat=remat, scan_layers=True)

        def loss(params):
            rngs = {"dropout": key(5)}
            return model.apply({"params": params}, ids, deterministic=False, rngs=rngs).var()

        return jax.jit(jax.grad(loss))(given)

    for remat in ("dots", "full"):
        jax.tree.map(close, gradients(remat), gradients("none"))


def test_dropout_obeys_deterministic_and_its_rng(params, ids):
    def run(rate, seed=None, **kwargs):
        config = GPT2Config(23, 12, 8, 2, 2, **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **rate})
        rngs = None if seed is None else {"dropout": key(seed)}
        return GPT2(config).apply({"params": params}, ids, rngs=rngs, **kwargs)

    plain = run({})
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        rate = {name: 0.5}
        np.testing.assert_array_equal(run(rate), plain)
        dropped = run(rate, seed=0, deterministic=False)
        assert np.abs(dropped - plain).max() > 1e-2, name
        np.testing.assert_array_equal(run(rate, seed=0, deterministic=False), dropped)
        assert np.abs(run(rate, seed=1, deterministic=False) - dropped).max() > 1e-2, name


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_plain_attention_equals_jaxs(dtype):
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 5, 4, 6)).astype(dtype)
    mask = jnp.tril(jnp.ones((5, 5), bool))[None, None] & (jnp.arange(5) != jnp.array([[1], [4]]))[:, None, None]
    expected = jax.nn.dot_product_attention(query, key, value, mask=mask, scale=0.7)
    close(
        plain_attention(query, key, value, mask, 0.7).astype(jnp.float32),
        expected.astype(jnp.float32),
        1e-6 if dtype == jnp.float32 else 1e-2,
    )


def test_bf16_is_close_and_its_logits_are_fp32(params, ids):
    expected = GPT2(CONFIG).apply({"params": params}, ids)
    for given in (params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)):
        logits = jax.jit(GPT2(CONFIG, dtype=jnp.bfloat16).apply)({"params": given}, ids)
        assert logits.dtype == jnp.float32
        assert np.abs(logits - expected).max() < 0.03 * np.abs(expected).max()
    untied = GPT2(GPT2Config(23, 12, 8, 1, 2, tie_word_embeddings=False), dtype=jnp.bfloat16)
    logits = jax.jit(untied.apply)({"params": noise(untied)}, ids)
    assert logits.dtype == jnp.float32
    assert (logits.astype(jnp.bfloat16) != logits).any()


def test_padding_does_not_leak(params, ids):
    model = GPT2(CONFIG)
    other = jnp.where(LEFT_PADDED, ids, (ids + 7) % CONFIG.vocab_size)
    a, b = (model.apply({"params": params}, tokens, LEFT_PADDED) for tokens in (ids, other))
    assert not np.array_equal(ids, other)
    np.testing.assert_array_equal(a[LEFT_PADDED], b[LEFT_PADDED])
    positions = jnp.maximum(jnp.cumsum(LEFT_PADDED, 1) - 1, 0)
    padded = model.apply({"params": params}, ids, LEFT_PADDED, position_ids=positions)
    close(padded[1, 4:], model.apply({"params": params}, ids[1:2, 4:])[0])


def test_no_position_sees_the_future(params, ids):
    model = GPT2(CONFIG)
    a, b = (model.apply({"params": params}, tokens) for tokens in (ids, ids.at[:, 6].add(1) % 23))
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert (np.abs(a - b)[:, 6:].max(axis=(0, 2)) > 1e-3).all()


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("steps", [[4, 6], [7, 1, 1, 1]])
def test_cached_equals_uncached(params, ids, scan_layers, steps):
    model = GPT2(CONFIG, scan_layers=scan_layers)
    variables = {"params": stack_layers(params) if scan_layers else params}
    positions = jnp.maximum(jnp.cumsum(LEFT_PADDED, 1) - 1, 0)
    apply = jax.jit(model.apply)
    for given in ({}, {"position_ids": positions}):
        expected = apply(variables, ids, LEFT_PADDED, **given)
        cache = model.init_cache(BATCH, 12)
        mask = jnp.pad(LEFT_PADDED, ((0, 0), (0, 2)), constant_values=True)
        parts, start = [], 0
        for count in steps:
            here = {name: value[:, start : start + count] for name, value in given.items()}
            logits, cache = apply(variables, ids[:, start : start + count], mask, cache=cache, **here)
            parts.append(logits)
            start += count
        assert int(cache.index) == LENGTH
        close(jnp.concatenate(parts, 1)[LEFT_PADDED], expected[LEFT_PADDED])


def test_the_cache_is_not_changed_in_place(params, ids):
    model = GPT2(CONFIG)
    empty = model.init_cache(BATCH, 12)
    model.apply({"params": params}, ids, cache=empty)
    assert int(empty.index) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(empty))


def test_logits_at_and_hidden(params, ids):
    model = GPT2(CONFIG)
    expected = model.apply({"params": params}, ids)
    at = jnp.array([0, 13, 29, 13])
    close(model.apply({"params": params}, ids, logits_at=at), expected.reshape(-1, 23)[at])
    hidden = model.apply({"params": params}, ids, method="hidden")
    assert hidden.shape == (BATCH, LENGTH, 8)
    close(model.apply({"params": params}, hidden, method="logits"), expected)
    logits, _ = model.apply({"params": params}, ids, cache=model.init_cache(BATCH, 10), logits_at=at)
    close(logits, expected.reshape(-1, 23)[at])


def test_logits_at_never_holds_the_other_logits(params, ids):
    def largest(**kwargs):
        traced = jax.make_jaxpr(lambda params: GPT2(CONFIG).apply({"params": params}, ids, **kwargs))(params)
        return [v.aval.shape for eqn in traced.eqns for v in eqn.outvars if v.aval.shape[-1:] == (23,)]

    assert (BATCH, LENGTH, 23) in largest()
    assert largest(logits_at=jnp.array([2, 5])) == [(2, 23)]


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_collection_of_factors_follows_the_layers_under_scan(params, ids, remat):
    """A Linen interceptor with factors in a collection `adapter`, as adapters here are applied."""

    def scale(next_function, args, kwargs, context):
        y = next_function(*args, **kwargs)
        dense = isinstance(context.module, nn.Dense) and context.method_name == "__call__"
        if dense and context.module.has_variable("adapter", "g"):
            y = y * context.module.get_variable("adapter", "g")
        return y

    factors = {f"layer_{i}": {"attention": {"query": {"g": jnp.linspace(1, 2 + i, 8)}}} for i in range(CONFIG.n_layer)}
    plain, scanned = GPT2(CONFIG), GPT2(CONFIG, remat=remat, scan_layers=True)
    with nn.intercept_methods(scale):
        expected = plain.apply({"params": params, "adapter": factors}, ids)
        given = {"params": stack_layers(params), "adapter": stack_layers(factors)}
        close(scanned.apply(given, ids), expected)
    assert np.abs(expected - plain.apply({"params": params}, ids)).max() > 1e-3


def test_too_long_names_both_numbers(params):
    model = GPT2(CONFIG)
    with pytest.raises(UserError, match=r"\b13\b.*\b12\b"):
        model.apply({"params": params}, jnp.zeros((1, 13), jnp.int32))
    with pytest.raises(UserError, match=r"\b14\b.*\b12\b"):
        model.init_cache(1, 14)


def test_a_full_cache_and_a_mask_of_another_length_are_refused(params, ids):
    model = GPT2(CONFIG)
    _, cache = model.apply({"params": params}, ids, cache=model.init_cache(BATCH, 12))
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
        ({"resid_pdrop": 1.0}, r"resid_pdrop must be at least 0 and below 1, not 1.0"),
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


def test_config_names_every_missing_field():
    with pytest.raises(UserError, match=r"missing 'n_positions', 'n_head'"):
        GPT2Config.from_json({"vocab_size": 23, "n_embd": 8, "n_layer": 3})
