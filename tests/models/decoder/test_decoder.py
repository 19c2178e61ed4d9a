"""The decoder's computation: against transformers' golden logits, and each way to run it against the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

from hut_jax import HUT, SSF, Adapter, Bank, LayerNorm, LoRA, load_pretrained, make_transform
from hut_jax.core.errors import UserError
from hut_jax.core.scanned_layers import stack_layers
from hut_jax.core.trees import show
from hut_jax.models.compute import Compute
from hut_jax.models.decoder.config import DecoderConfig
from hut_jax.models.decoder.model import Decoder
from hut_jax.models.decoder.rope import Rope
from hut_jax.models.decoder.traits import FULL, SLIDING
from hut_jax.models.hub.saving import save_pretrained
from hut_jax.parallel.activations import run_on
from hut_jax.parallel.mesh import TRANSFORMER, make_mesh, param_specs, place_batch, shardings
from hut_jax.transforms import TRANSFORMS
from tests.conftest import drawn
from tests.goldens.archives import golden_decoders
from tests.parity import change, check_parity

FOLDER = golden_decoders()
GOLDENS = sorted(path.name for path in FOLDER.iterdir())
QUICK = ("llama", "gemma3_text", "phi3", "classifier")
# Two kinds of layers, groups of heads, a cap, norms of queries and keys, dropout, and a head of its own.
CONFIG = DecoderConfig(
    model_type="gemma3_text",
    vocab_size=23,
    hidden_size=16,
    intermediate_size=12,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=24,
    initializer_range=0.3,
    attn_logit_softcapping=2.0,
    sliding_window=4,
    layer_types=(SLIDING, FULL, SLIDING),
    local_rope=Rope(rope_theta=50.0),
)
LENGTH = 12


@partial(jax.jit, static_argnums=0, static_argnames="method")
def run(model, params, *args, **kwargs):
    return model.apply({"params": params}, *args, **kwargs)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(0, CONFIG.vocab_size, (2, LENGTH), np.int32)


@pytest.fixture(scope="module")
def params():
    """Random everywhere: the start's zeros and ones would hide a norm left out."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: random.normal(0, 0.4, leaf.shape).astype(np.float32), drawn(Decoder(CONFIG), seed=0)
    )


@pytest.fixture(scope="module")
def expected(params, ids):
    return np.asarray(run(Decoder(CONFIG), params, ids))


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


MARKED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in GOLDENS]


@pytest.mark.parametrize("name", MARKED)
def test_logits_equal_transformers(name):
    model, params = load_pretrained(FOLDER / name, compute=Compute(scan_layers=name in ("gemma3_text", "qwen2")))
    golden = load_file(FOLDER / name / "golden.safetensors")
    expected, real = golden.pop("logits"), golden["attention_mask"].astype(bool)
    ours, changed = (np.asarray(run(model, given, **golden)) for given in (params, change(params)))
    if model.config.head == "causal":
        ours, expected, changed = ours[real], expected[real], changed[real]
    check_parity(ours, expected, changed, 1e-4)


def test_there_are_goldens_of_every_family():
    from hut_jax.models.decoder.traits import TRAITS

    assert {*TRAITS} <= {*GOLDENS}


@pytest.mark.parametrize("name", GOLDENS)
def test_files_go_in_and_out_with_the_same_bits(name, tmp_path):
    model, params = load_pretrained(FOLDER / name)
    save_pretrained(tmp_path, model, params)
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (FOLDER / name, tmp_path))
    assert theirs.keys() == ours.keys()
    for tensor, value in theirs.items():
        np.testing.assert_array_equal(ours[tensor], value, err_msg=tensor)
    assert load_pretrained(tmp_path)[0].config == model.config


def test_parameter_tree():
    tree = jax.tree.map(np.shape, load_pretrained(FOLDER / "phi3")[1])
    attention = {"query": (16, 16), "key": (16, 8), "value": (16, 8), "out": (16, 16)}
    layer = {
        "attention_norm": {"scale": (16,)},
        "attention": {name: {"kernel": shape} for name, shape in attention.items()},
        "mlp_norm": {"scale": (16,)},
        "mlp": {"gate": {"kernel": (16, 10)}, "up": {"kernel": (16, 10)}, "down": {"kernel": (10, 16)}},
    }
    assert tree == {
        "token_embedding": {"embedding": (29, 16)},
        "layer_0": layer,
        "layer_1": layer,
        "final_norm": {"scale": (16,)},
        "lm_head": {"kernel": (16, 29)},
    }


@pytest.mark.full
def test_scanned_and_recomputed_layers_equal_plain_ones(params, ids):
    stacked = jax.device_get(stack_layers(params))

    @partial(jax.jit, static_argnums=0)
    @partial(jax.value_and_grad, argnums=1)
    def squares(model, params):
        return jnp.square(model.apply({"params": params}, ids)).mean()

    plain, plain_grads = squares(Decoder(CONFIG), params)
    ours, grads = squares(Decoder(CONFIG, scan_layers=True, remat="dots"), stacked)
    close(ours, plain)
    jax.tree.map(close, grads, stack_layers(plain_grads))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain_grads))


def test_a_cache_gives_what_the_whole_text_gives(params, ids, expected):
    """Read in two parts and token by token, past twice the window."""
    model = Decoder(CONFIG)

    @jax.jit
    def step(params, tokens, cache):
        return model.apply({"params": params}, tokens, cache=cache)

    cache, logits = jax.jit(lambda: model.init_cache(2, LENGTH))(), []
    for start, end in ((0, 4), (4, 8), *((i, i + 1) for i in range(8, LENGTH))):
        part, cache = step(params, ids[:, start:end], cache)
        logits.append(part)
    close(np.concatenate(logits, axis=1), expected)
    with pytest.raises(UserError, match=r"1 more tokens do not fit a cache for 12 tokens"):
        model.apply({"params": params}, ids[:, :1], cache=cache)


def test_a_window_hides_what_is_before_it(params, ids, expected):
    other = ids.copy()
    other[:, 0] = (other[:, 0] + 1) % CONFIG.vocab_size
    local = Decoder(DecoderConfig(**vars(CONFIG) | {"layer_types": (SLIDING,) * 3}))
    one, two = (np.asarray(run(local, params, tokens)) for tokens in (ids, other))
    reach = 3 * (CONFIG.sliding_window - 1)
    np.testing.assert_array_equal(one[:, reach + 1 :], two[:, reach + 1 :])
    assert (one[:, 1 : reach + 1] != two[:, 1 : reach + 1]).any(-1).all()


def test_padding_on_the_left_moves_nothing(params, ids, expected):
    """Rotary positions and windows see distances alone."""
    mask = np.arange(LENGTH + 3)[None] >= 3
    padded = np.concatenate([np.zeros((2, 3), np.int32), ids], axis=1)
    close(run(Decoder(CONFIG), params, padded, np.repeat(mask, 2, axis=0))[:, 3:], expected, 1e-4)


@pytest.mark.full
@pytest.mark.parametrize(
    "rope",
    [CONFIG.rope, Rope("dynamic", 50.0, factor=3.0)],
    ids=lambda rope: rope.rope_type,
)
def test_texts_that_share_a_row_do_not_see_each_other(params, ids, rope):
    """Not even by their lengths, on which a dynamic type depends."""
    config = vars(CONFIG) | {"rope": rope, "max_position_embeddings": 4 if rope.factor else 24}
    model = Decoder(DecoderConfig(**config))
    sizes, starts = (7, 3, 2), (0, 7, 10)
    row = {"position_ids": np.concatenate([np.arange(size) for size in sizes])[None]}
    row["segment_ids"] = np.repeat(np.arange(3), sizes)[None]
    packed = np.asarray(run(model, params, ids[:1], **row))
    for size, start in zip(sizes, starts, strict=True):
        close(packed[:, start : start + size], run(model, params, ids[:1, start : start + size]), 1e-4)
    with pytest.raises(UserError, match="segment_ids needs position_ids"):
        model.apply({"params": params}, ids[:1], segment_ids=row["segment_ids"])


@pytest.mark.full
def test_hidden_and_logits_apart_equal_a_call(params, ids, expected):
    model = Decoder(CONFIG)
    hidden = run(model, params, ids, method="hidden")
    close(run(model, params, hidden, method="logits"), expected)
    at = np.array([3, LENGTH + 5])
    close(run(model, params, ids, logits_at=at), expected.reshape(-1, CONFIG.vocab_size)[at])


@pytest.mark.full
def test_bf16_computes_in_bf16_and_gives_logits_in_fp32(params, ids, expected):
    logits = run(Decoder(CONFIG, dtype=jnp.bfloat16), params, ids)
    assert logits.dtype == jnp.float32
    size = np.abs(expected).max()
    assert 1e-5 * size < np.abs(np.asarray(logits) - expected).max() < 0.1 * size


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head": "classification"}, r"logits_at is for head 'causal'"),
        ({"head": "none"}, r"logits_at is for head 'causal'"),
    ],
)
def test_arguments_of_another_head_are_refused(ids, config, message):
    model = Decoder(DecoderConfig(**vars(CONFIG) | config))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda ids: model.init(jax.random.key(0), ids, logits_at=np.array([0])), ids)


def test_cudnn_is_refused_with_a_cap(ids):
    with pytest.raises(UserError, match=r"'cudnn' cannot cap attention's logits"):
        jax.eval_shape(Decoder(CONFIG, attention="cudnn").init, jax.random.key(0), ids)


def test_a_causal_checkpoint_gives_a_classifier_and_a_bare_body():
    lines = []
    model, params = load_pretrained(FOLDER / "mistral", head="classification", report=lines.append)
    assert params["classifier"]["out"]["kernel"].shape == (16, 2)
    assert [line.partition(": ")[2].partition(",")[0] for line in lines] == ["drawn at random", "left out"]
    bare, body = load_pretrained(FOLDER / "mistral", head="none", report=lines.append)
    assert body.keys() == params.keys() - {"classifier"}
    ids = np.ones((1, 3), np.int32)
    assert jax.eval_shape(lambda: bare.apply({"params": body}, ids)).shape == (1, 3, 16)
    assert jax.eval_shape(lambda: model.apply({"params": params}, ids)).shape == (1, 2)


SITES = {
    "hut": (HUT(rank=2), ["attention/query", "attention/value"]),
    "ssf": (
        SSF(),
        [*(f"attention/{name}" for name in ("query", "key", "value", "out")), "mlp/gate", "mlp/up", "mlp/down"],
    ),
    "layernorm": (LayerNorm(), ["attention_norm/scale", "mlp_norm/scale", "final_norm/scale"]),
}


@pytest.mark.parametrize("name", SITES)
def test_default_targets(name):
    """Where a layer has no bias, HUT and SSF have no shift."""
    transform, expected = SITES[name]
    _, params = load_pretrained(FOLDER / "mistral")
    sites = Adapter(transform).sites(params)
    assert {show(site.path).partition("/")[2] or show(site.path) for site in sites if "layer_0" in site.path} == {
        one for one in expected if not one.startswith("final")
    }
    assert not any("s" in site.factors for site in sites)


@pytest.mark.parametrize("scan_layers", [pytest.param(False, marks=pytest.mark.full), True])
def test_adapters_apply_as_they_merge(params, ids, scan_layers):
    model = Decoder(CONFIG, scan_layers=scan_layers)
    params = jax.device_get(stack_layers(params)) if scan_layers else params
    adapter = Adapter(LoRA(rank=2), "all-linear") if scan_layers else Adapter(HUT(rank=2), "attention/|mlp/")
    random = np.random.default_rng(2)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    factors = jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    zero = jax.tree.map(np.zeros_like, factors)

    @jax.jit
    def both(params, factors):
        merged = model.apply({"params": adapter.merge(params, factors)}, ids)
        return adapter.apply(model, params, factors, ids), merged

    applied, merged = both(params, factors)
    close(applied, merged, 1e-4)
    base, _ = both(params, zero)
    assert np.abs(np.asarray(applied) - np.asarray(base)).max() > 0.1


def test_kernels_are_split_as_the_other_models_are():
    _, params = load_pretrained(FOLDER / "llama")
    mesh = make_mesh(2, 2, 2)
    specs = {show(path): spec for path, spec in param_specs(params, TRANSFORMER, mesh).items()}
    for name in ("attention/query", "attention/key", "mlp/gate", "mlp/up"):
        assert specs[f"layer_0/{name}/kernel"] == P("fsdp", "tensor")
    for name in ("attention/out", "mlp/down"):
        assert specs[f"layer_0/{name}/kernel"] == P("tensor", "fsdp")
    assert specs["lm_head/kernel"] == P("fsdp", None)
    assert specs["layer_0/mlp/gate/bias"] == P()


def test_a_tied_head_that_came_apart_is_read_and_saved(ids, params, tmp_path):
    """As with an adapter's `untied`."""
    base = {name: leaf for name, leaf in params.items() if name != "lm_head"}
    untied = base | {"lm_head": {"kernel": 2 * params["token_embedding"]["embedding"].T}}
    model = Decoder(DecoderConfig(**vars(CONFIG) | {"tie_word_embeddings": True}))
    tied, apart = (np.asarray(run(model, given, ids)) for given in (base, untied))
    close(apart, 2 * tied)
    save_pretrained(tmp_path, model, untied)
    own, back = load_pretrained(tmp_path)
    assert not own.config.tie_word_embeddings
    np.testing.assert_array_equal(back["lm_head"]["kernel"], untied["lm_head"]["kernel"])


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transformation_applies_as_it_merges(params, ids, name):
    """With its default targets, on scanned layers. BitFit has no biases to train here."""
    model, params = Decoder(CONFIG, scan_layers=True), jax.device_get(stack_layers(params))
    adapter = Adapter(make_transform(name, **({"rank": 2} if name == "hut" else {})))
    if name == "bitfit":
        with pytest.raises(UserError, match="bitfit has nothing to act on"):
            adapter.sites(params)
        return
    random = np.random.default_rng(3)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    factors = jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)

    @jax.jit
    def both(params, factors):
        merged = model.apply({"params": adapter.merge(params, factors)}, ids)
        return adapter.apply(model, params, factors, ids), merged

    applied, merged = both(params, factors)
    close(applied, merged, 1e-4)
    assert np.abs(np.asarray(applied) - np.asarray(run(model, params, ids))).max() > 1e-3


@pytest.mark.full
def test_a_bank_gives_each_row_its_own_adapter(params, ids):
    model, adapter = Decoder(CONFIG), Adapter(HUT(rank=2))
    random = np.random.default_rng(4)
    shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
    sets = {
        name: jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
        for name in ("one", "two")
    }
    bank = Bank(adapter, params)
    for name, factors in sets.items():
        bank[name] = factors
    names = ["two", "one"]
    rows = np.asarray(adapter.apply(model, params, bank.stacked(), ids, adapter_ids=bank.ids(names)))
    for row, name in enumerate(names):
        close(rows[row], run(model, jax.device_get(adapter.merge(params, sets[name])), ids)[row], 1e-4)


@pytest.mark.full
def test_a_mesh_computes_what_one_device_does(params, ids):
    """Heads, of which a device has one of keys and two of queries, kernels and batch are all split."""
    mesh, model = make_mesh(2, 2, 2), Decoder(CONFIG)
    tokens = np.concatenate([ids, ids[:, ::-1]])
    placed = jax.device_put(params, shardings(mesh, param_specs(params, TRANSFORMER, mesh)))
    forward = jax.jit(run_on(mesh, lambda params, tokens: model.apply({"params": params}, tokens)))
    close(forward(placed, place_batch(mesh, tokens)), run(model, params, tokens))


def test_a_step_with_a_cache_computes_each_angle_once_and_not_in_every_layer():
    def cosines(layers):
        fields = {"num_hidden_layers": layers, "layer_types": (SLIDING,) * layers, "with_positions": ()}
        model = Decoder(DecoderConfig(**vars(CONFIG) | fields))
        params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))
        cache = jax.eval_shape(lambda: model.init_cache(2, LENGTH))
        step = jax.jit(lambda params, tokens, cache: model.apply(params, tokens, cache=cache))
        return step.lower(params, np.zeros((2, 1), np.int32), cache).compile().as_text().count(" cosine(")

    assert cosines(1) == cosines(3) > 0
