"""RoBERTa's and BERT's computation: against transformers' goldens, and each way to run it against the plain one."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import stack_layers, unstack_layers
from hut_jax.models.compute import Compute
from hut_jax.models.hub.pretrained import build_model, init_params, load_pretrained
from hut_jax.models.roberta import Roberta, default_positions
from hut_jax.models.roberta_config import RobertaConfig
from tests.goldens.archives import golden_models
from tests.parity import change, check_parity

GOLDENS = [*sorted(golden_models().glob("bert_*/")), *sorted(golden_models().glob("roberta_*/"))]
QUICK = ("bert_classification", "roberta_mlm")
GIVEN = {
    "vocab_size": 23,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 14,
}
CLASSIFIER = RobertaConfig("roberta", **GIVEN, head="classification", labels=("a", "b", "c"))
MLM = dataclasses.replace(CLASSIFIER, head="mlm")
BERT = dataclasses.replace(CLASSIFIER, model_type="bert", pad_token_id=0)
BATCH, LENGTH = 3, 10
LENGTHS = np.array([[10], [6], [1]])
MASK = np.arange(LENGTH) < LENGTHS
IDS = np.where(MASK, np.random.default_rng(1).integers(2, 23, (BATCH, LENGTH)), 1)


def noise(model):
    """Parameters random everywhere: the start's zeros and ones would hide a bias or a norm left out."""
    random = np.random.default_rng(0)

    def draw(path, shape):
        return random.normal(path.endswith("scale"), 0.3, shape).astype(np.float32)

    leaves = flatten_dict(shapes(model), sep="/").items()
    return unflatten_dict({path: draw(path, shape) for path, shape in leaves}, sep="/")


@pytest.fixture(scope="module")
def params():
    return noise(Roberta(CLASSIFIER))


@pytest.fixture(scope="module")
def mlm_params():
    return noise(Roberta(MLM))


def key(seed):
    return jax.random.key(seed, impl="rbg")  # compiles much faster than the default


def shapes(model):
    tree = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@partial(jax.jit, static_argnums=0, static_argnames=("method", "deterministic"))
def run(model, params, *args, **kwargs):
    return model.apply({"params": params}, *args, **kwargs)


number = jax.jit(default_positions, static_argnums=0)


def stacked(layers):
    return jax.device_get(stack_layers(layers))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def both(model, **inputs):
    """The hidden states, and the logits or the pooler's output."""
    hidden = model.hidden(**inputs)
    return hidden, model.pool(hidden) if model.config.head == "none" else model(**inputs)


@pytest.mark.parametrize(
    ("folder", "scan_layers"),
    [
        (folder, False) if folder.name in QUICK else pytest.param(folder, False, marks=pytest.mark.full)
        for folder in GOLDENS
    ]
    + [pytest.param(folder, True, marks=pytest.mark.full) for folder in GOLDENS if "classif" in folder.name],
    ids=lambda value: getattr(value, "name", "scan" if value else "plain"),
)
def test_hidden_states_and_logits_equal_transformers(folder, scan_layers):
    model, params = load_pretrained(folder, compute=Compute(scan_layers=scan_layers))
    inputs = load_file(folder / "golden.safetensors")
    expected = {name: inputs.pop(name) for name in ("hidden", "logits", "pooled") if name in inputs}
    theirs = expected["hidden"], expected["pooled" if model.config.head == "none" else "logits"]
    ours, changed = (jax.device_get(run(model, given, **inputs, method=both)) for given in (params, change(params)))
    real = inputs["attention_mask"].astype(bool)
    check_parity(*([each[real] if each.ndim == 3 else each for each in pair] for pair in (ours, theirs, changed)), 1e-4)


def test_there_are_goldens_of_each_class():
    models = [build_model(folder) for folder in GOLDENS]
    assert {(model.config.model_type, model.config.head) for model in models} == {
        (kind, head) for kind in ("roberta", "bert") for head in ("none", "classification", "mlm")
    }


def test_parameter_tree():
    d, norm = 8, {"scale": (8,), "bias": (8,)}
    dense = {"kernel": (d, d), "bias": (d,)}
    layer = {
        "attention": {"query": dense, "key": dense, "value": dense, "out": dense},
        "attention_norm": norm,
        "mlp": {"up": {"kernel": (d, 12), "bias": (12,)}, "down": {"kernel": (12, d), "bias": (d,)}},
        "mlp_norm": norm,
    }
    encoder = {
        "token_embedding": {"embedding": (23, d)},
        "position_embedding": {"embedding": (14, d)},
        "type_embedding": {"embedding": (2, d)},
        "embedding_norm": norm,
        **{f"layer_{i}": layer for i in range(2)},
    }
    out = {"kernel": (d, 3), "bias": (3,)}
    mlm = {"dense": dense, "norm": norm, "bias": (23,)}
    untied = {**mlm, "decoder": {"kernel": (d, 23)}}
    for config, head in [
        (CLASSIFIER, {"classifier": {"dense": dense, "out": out}}),
        (BERT, {"pooler": dense, "classifier": {"out": out}}),
        (MLM, {"mlm": mlm}),
        (dataclasses.replace(BERT, head="mlm"), {"mlm": mlm}),
        (dataclasses.replace(MLM, tie_word_embeddings=False), {"mlm": untied}),
        (dataclasses.replace(CLASSIFIER, head="none"), {"pooler": dense}),
    ]:
        assert shapes(Roberta(config)) == {**encoder, **head}


def test_scanned_tree_is_the_stacked_plain_one(params):
    assert shapes(Roberta(CLASSIFIER, scan_layers=True)) == jax.tree.map(np.shape, stacked(params))


@pytest.mark.full
def test_kernels_start_normal_and_the_rest_at_zero_or_one():
    sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 64, "max_position_embeddings": 66}
    config = dataclasses.replace(CLASSIFIER, **sizes, type_vocab_size=60, labels=("x",) * 60, initializer_range=0.05)
    params = jax.device_get(init_params(Roberta(config, scan_layers=True), key(0)))
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.endswith(("bias", "scale")):
            np.testing.assert_array_equal(leaf, float(path.endswith("scale")))
        else:
            assert np.std(leaf) == pytest.approx(0.05, rel=0.05), path
            assert abs(np.mean(leaf)) < 0.005
    query = params["layers"]["attention"]["query"]["kernel"]
    assert not np.array_equal(query[0], query[1])


@partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def squares(params, model):
    return jnp.square(model.apply({"params": params}, IDS, MASK)).mean()


@pytest.mark.full
@pytest.mark.parametrize(("remat", "scan_layers"), [("full", False), ("dots", True)])
def test_remat_and_scan_equal_plain(params, remat, scan_layers):
    expected, expected_grads = squares(params, Roberta(CLASSIFIER))
    model = Roberta(CLASSIFIER, remat=remat, scan_layers=scan_layers)
    value, grads = squares(stacked(params) if scan_layers else params, model)
    close(value, expected)
    grads = unstack_layers(jax.device_get(grads)) if scan_layers else grads
    jax.tree.map(lambda a, b: close(a, b, 1e-4), grads, expected_grads)
    for path, grad in flatten_dict(grads, sep="/").items():
        # Softmax ignores what is added to every key alike, so that the key's bias alone has none.
        assert path.endswith("key/bias") or np.abs(grad).max() > 1e-6, path


@pytest.mark.full
def test_remat_keeps_dropout(params):
    given = stacked(params)

    def gradients(remat):
        model = Roberta(CLASSIFIER, remat=remat, scan_layers=True)

        def loss(params, dropout):
            return model.apply({"params": params}, IDS, MASK, deterministic=False, rngs={"dropout": dropout}).var()

        compiled = jax.jit(jax.grad(loss))
        return [compiled(given, key(seed)) for seed in (5, 6)]

    expected, other = gradients("none")
    jax.tree.map(close, gradients("full")[0], expected)
    kernels = [np.asarray(grads["layers"]["mlp"]["up"]["kernel"]) for grads in (expected, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2 * np.abs(kernels[0]).max()


@pytest.mark.full
def test_dropout_obeys_deterministic_and_its_rng(params):
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")

    one_layer = dataclasses.replace(CLASSIFIER, num_hidden_layers=1)
    plain = np.asarray(run(Roberta(one_layer), params, IDS, MASK))
    for name in names:
        model = Roberta(dataclasses.replace(one_layer, **{**dict.fromkeys(names, 0.0), name: 0.5}))
        np.testing.assert_array_equal(run(model, params, IDS, MASK), plain)
        first, again, other = (
            np.asarray(run(model, params, IDS, MASK, deterministic=False, rngs={"dropout": key(i)})) for i in (0, 0, 1)
        )
        assert np.abs(first - plain).max() > 1e-2, name
        np.testing.assert_array_equal(again, first)
        assert np.abs(other - first).max() > 1e-2, name


def test_classifier_dropout_is_by_default_the_hidden_one():
    assert dataclasses.replace(BERT, hidden_dropout_prob=0.3).classifier_rate == 0.3
    assert dataclasses.replace(BERT, hidden_dropout_prob=0.3, classifier_dropout=0.0).classifier_rate == 0


@pytest.mark.parametrize("deterministic", [True, pytest.param(False, marks=pytest.mark.full)])
def test_a_row_of_nothing_but_padding_has_finite_logits_and_gradients(params, deterministic):
    mask = MASK * np.array([[1], [0], [1]])
    model = Roberta(dataclasses.replace(CLASSIFIER, num_hidden_layers=1))

    def loss(params):
        rngs = None if deterministic else {"dropout": key(0)}
        logits = model.apply({"params": params}, IDS, mask, deterministic=deterministic, rngs=rngs)
        return jnp.square(logits).mean(), logits

    grads, logits = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(params))
    assert np.isfinite(logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.full
def test_padding_does_not_leak(mlm_params):
    model = Roberta(MLM)
    other = np.where(MASK, IDS, 7)
    positions = np.asarray(number(MLM, IDS))
    a, b = (np.asarray(run(model, mlm_params, ids, MASK, position_ids=positions)) for ids in (IDS, other))
    assert not np.array_equal(IDS, other)
    np.testing.assert_array_equal(a[MASK], b[MASK])
    close(a[1, :6], run(model, mlm_params, IDS[1:2, :6])[0])


def test_roberta_counts_its_positions_past_left_padding(mlm_params):
    left, count = np.full((1, LENGTH), MLM.pad_token_id), 6
    left[:, LENGTH - count :] = IDS[1:2, :count]
    padded = run(Roberta(MLM), mlm_params, left, left != MLM.pad_token_id)
    close(padded[:, LENGTH - count :], run(Roberta(MLM), mlm_params, IDS[1:2, :count]))


@given(arrays(np.int32, (2, 5), elements=st.integers(0, 4)), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_positions_number_the_real_tokens_after_the_padding_id(ids, pad):
    config = dataclasses.replace(CLASSIFIER, pad_token_id=pad)
    positions = np.asarray(number(config, ids))
    assert (positions[ids == pad] == pad).all()
    for row, places in zip(ids, positions, strict=True):
        real = places[row != pad]
        np.testing.assert_array_equal(real, pad + 1 + np.arange(len(real)))
    np.testing.assert_array_equal(number(BERT, ids), [np.arange(5)])


@pytest.mark.full
def test_token_types_tell_a_pairs_texts_apart(params):
    model = Roberta(CLASSIFIER)
    plain = np.asarray(run(model, params, IDS, MASK))
    types = ((np.arange(LENGTH) >= 3) & MASK).astype(np.int32)
    close(run(model, params, IDS, MASK, token_type_ids=np.zeros_like(types)), plain, 1e-6)
    assert np.abs(run(model, params, IDS, MASK, token_type_ids=types) - plain).max() > 1e-2


@pytest.mark.parametrize(
    "config",
    [
        MLM,
        *(
            pytest.param(one, marks=pytest.mark.full)
            for one in (CLASSIFIER, BERT, dataclasses.replace(MLM, tie_word_embeddings=False))
        ),
    ],
)
def test_bf16_is_close_and_its_logits_are_fp32(config):
    params = noise(Roberta(config))
    expected = np.asarray(run(Roberta(config), params, IDS, MASK))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    logits = np.asarray(run(Roberta(config, dtype=jnp.bfloat16), half, IDS, MASK))
    assert logits.dtype == np.float32
    assert (logits.astype(jnp.bfloat16) != logits).any()
    assert np.abs(logits - expected).max() < 0.04 * np.abs(expected).max()


def test_logits_at_and_hidden(mlm_params):
    model = Roberta(MLM)
    expected = np.asarray(run(model, mlm_params, IDS, MASK))
    at = np.array([0, 13, 29, 13])
    close(run(model, mlm_params, IDS, MASK, logits_at=at), expected.reshape(-1, 23)[at])
    hidden = run(model, mlm_params, IDS, MASK, method="hidden")
    assert hidden.shape == (BATCH, LENGTH, 8)
    close(run(model, mlm_params, hidden, method="logits"), expected)


@pytest.mark.full
def test_logits_at_never_holds_the_other_logits(mlm_params):
    def logits(**kwargs):
        traced = jax.make_jaxpr(lambda params: Roberta(MLM).apply({"params": params}, IDS, **kwargs))(mlm_params)
        return {v.aval.shape for eqn in traced.eqns for v in eqn.outvars if v.aval.shape[-1:] == (23,)}

    assert (BATCH, LENGTH, 23) in logits()
    assert (BATCH, LENGTH, 23) not in logits(logits_at=np.array([2, 5]))


@pytest.mark.parametrize("remat", ["none", *(pytest.param(name, marks=pytest.mark.full) for name in ("dots", "full"))])
def test_a_collection_of_factors_follows_the_layers_under_scan(params, remat):
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
            return model.apply({"params": params, "adapter": factors}, IDS, MASK)

    factors = {
        f"layer_{i}": {"attention": {"query": {"g": np.linspace(1, 2 + i, 8, dtype=np.float32)}}} for i in range(2)
    }
    plain, scanned = Roberta(CLASSIFIER), Roberta(CLASSIFIER, remat=remat, scan_layers=True)
    expected = np.asarray(adapted(plain, params, factors))
    close(adapted(scanned, stacked(params), stacked(factors)), expected)
    assert np.abs(expected - run(plain, params, IDS, MASK)).max() > 1e-3


def test_too_long_a_sequence_a_wrong_mask_and_logits_at_without_logits_are_refused(params):
    model = Roberta(CLASSIFIER)
    assert (CLASSIFIER.n_positions, BERT.n_positions) == (12, 14)
    with pytest.raises(UserError, match=r"\b13\b.*\b12\b"):
        model.apply({"params": params}, jnp.zeros((1, 13), jnp.int32))
    with pytest.raises(UserError, match="covers 9 keys, not 10"):
        model.apply({"params": params}, IDS, MASK[:, :9])
    with pytest.raises(UserError, match=r"logits_at is for head 'mlm'.* not for 'classification'"):
        model.apply({"params": params}, IDS, logits_at=np.array([1]))


def test_config_round_trip_and_what_it_ignores():
    values = {**GIVEN, "model_type": "bert", "use_cache": True, "problem_type": "regression", "id2label": {"0": "x"}}
    config = RobertaConfig.from_json({**values, "classifier_dropout": 0, "position_embedding_type": "absolute"})
    assert config == RobertaConfig(
        "bert",
        **GIVEN,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        classifier_dropout=0.0,
        labels=("x",),
        problem_type="regression",
    )
    assert RobertaConfig.from_json(config.to_json()) == config
    assert hash(Roberta(config)) == hash(Roberta(RobertaConfig.from_json(config.to_json())))


def test_roberta_and_bert_have_other_special_tokens_where_config_json_is_silent():
    roberta, bert = (RobertaConfig.from_json({**GIVEN, "model_type": kind}) for kind in ("roberta", "bert"))
    assert (roberta.pad_token_id, roberta.bos_token_id, roberta.eos_token_id) == (1, 0, 2)
    assert (bert.pad_token_id, bert.bos_token_id, bert.eos_token_id) == (0, None, None)
    assert roberta.labels == bert.labels == ("LABEL_0", "LABEL_1")
    assert RobertaConfig.from_json({**GIVEN, "model_type": "bert", "num_labels": 3}).labels[2:] == ("LABEL_2",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 3}, r"hidden_size 8 is not divisible by num_attention_heads 3"),
        ({"hidden_act": "gelu_neu"}, r"'gelu_neu'.*did you mean 'gelu_new'"),
        ({"is_decoder": True}, r"'is_decoder' is not supported"),
        ({"add_cross_attention": True}, r"'add_cross_attention' is not supported"),
        ({"position_embedding_type": "relative_key"}, r"'relative_key' is not supported; valid: 'absolute'"),
        ({"pad_token_id": None}, r"pad_token_id must be a whole number of at least 0, or -1 for none, not None"),
        ({"max_position_embeddings": 2}, r"max_position_embeddings 2 leaves no position"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob must be from 0 to 1, not 1.5"),
        ({"classifier_dropout": "no"}, r"'classifier_dropout' must be a number, or null, not 'no'"),
        ({"problem_type": 1}, r"'problem_type' must be a string, or null, not 1"),
        ({"hidden_size": 0}, r"'hidden_size' must be a whole number of at least 1, not 0"),
        ({"num_labels": 0}, r"'num_labels' must be a whole number of at least 1, not 0"),
        ({"id2label": {"0": "a", "1": ["b"]}}, r"'id2label' must map"),
        ({"id2label": ["a"]}, r"'id2label' must map"),
        ({"id2label": {}}, r"'id2label' must map"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(UserError, match=message) as error:
        RobertaConfig.from_json({**GIVEN, "model_type": "roberta", **change}, where="some/config.json")
    assert str(error.value).startswith("some/config.json: ")
    assert "\n" not in str(error.value)
