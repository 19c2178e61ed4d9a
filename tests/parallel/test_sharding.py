"""On eight virtual devices: every mesh trains as one device does, and HUT sends nothing that LoRA does not."""

import functools
import signal

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks.xla_text import count_collectives
from hut_jax import HUT, Adapter, Full, LoRA
from hut_jax.adapters.sharding import factor_specs
from hut_jax.config import freeze
from hut_jax.core.errors import Interrupted, UserError
from hut_jax.models.gpt2 import GPT2
from hut_jax.models.gpt2_config import GPT2Config
from hut_jax.models.hub.pretrained import init_params
from hut_jax.models.roberta import Roberta
from hut_jax.models.roberta_config import RobertaConfig
from hut_jax.parallel.activations import batch_parts, run_on
from hut_jax.parallel.mesh import (
    TRANSFORMER,
    check_batch,
    check_heads,
    make_mesh,
    param_specs,
    place_batch,
    shardings,
)
from hut_jax.tasks.causal_lm import causal_lm_loss
from hut_jax.tasks.glue import classification_loss
from hut_jax.train import train
from hut_jax.training.evaluation import Evaluation
from hut_jax.training.log import read_metrics
from hut_jax.training.steps import Steps, state_shardings
from hut_jax.transforms import TRANSFORMS

ROWS, LENGTH, STEPS = 8, 16, 10
MESHES = [(d, f, 8 // d // f) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if d * f in (1, 2, 4, 8)]
METHODS = {
    "hut": Adapter(HUT(rank=2)),
    "hut all": Adapter(HUT(rank=4, spread="cyclic"), "attention/|mlp/"),
    "hut r=1": Adapter(HUT(rank=1)),
    "hut kronecker": Adapter(HUT(rank=2, spread="kronecker")),
    "hut sum": Adapter(HUT(rank=2, spread="sum")),
    "hut product": Adapter(HUT(rank=2, spread="product")),
    "lora": Adapter(LoRA(rank=2)),
    "full": Adapter(Full()),
}


def gpt2(layers=1, **options):
    return GPT2(GPT2Config(vocab_size=64, n_positions=LENGTH, n_embd=64, n_layer=layers, n_head=8), **options)


def roberta():
    return Roberta(
        RobertaConfig(
            model_type="roberta",
            head="classification",
            vocab_size=64,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=8,
            intermediate_size=128,
            max_position_embeddings=LENGTH + 2,
            type_vocab_size=1,
        )
    )


def batches(kind):
    """The first batch comes again at the end: its loss has then changed by training alone."""
    for step in range(STEPS):
        random = np.random.default_rng(step % (STEPS - 1))
        batch = {
            "input_ids": random.integers(2, 64, (ROWS, LENGTH)).astype(np.int32),
            "attention_mask": np.arange(LENGTH) < random.integers(LENGTH // 2, LENGTH + 1, (ROWS, 1)),
        }
        if kind == "gpt2":
            at = [row * LENGTH + i for row in range(ROWS) for i in range(4)]
            labels = random.integers(2, 64, len(at)).astype(np.int32)
            yield batch | {
                "logits_at": np.array(at, np.int32), "labels": labels, "weights": np.ones(len(at), np.float32),
            }  # fmt: skip
        else:
            yield batch | {
                "token_type_ids": np.zeros((ROWS, LENGTH), np.int32),
                "labels": random.integers(0, 2, ROWS).astype(np.int32),
                "weights": np.ones(ROWS, np.float32),
            }


KINDS = {"gpt2": (gpt2, causal_lm_loss), "roberta": (roberta, classification_loss)}


def shapes_of(model):
    return jax.eval_shape(lambda: init_params(model, jax.random.key(1), dtype=model.dtype))


@functools.cache
def params_of(kind):
    """The base of this kind, in the host's memory, larger than at its start, so that a few steps move its outputs."""
    model = KINDS[kind][0]()
    return jax.tree.map(lambda leaf: 4 * leaf, jax.device_get(init_params(model, jax.random.key(1))))


def set_up(kind, adapter, mesh, model=None):
    """The update on this mesh, and the shapes of its factors and base with their placements."""
    make, loss = KINDS[kind]
    model = make() if model is None else model
    params = shapes_of(model)
    factors = jax.eval_shape(adapter.init, jax.random.key(2), params)
    optimizer = optax.adamw(1e-2)
    specs = param_specs(params, TRANSFORMER, mesh)
    lie = shardings(mesh, factor_specs(adapter.sites(params), specs))
    whole = state_shardings(optimizer, factors, lie)
    steps = Steps(
        run_on(mesh, functools.partial(adapter.apply, model, shards=batch_parts(mesh))),
        loss,
        optimizer,
        dropout=False,
        place=functools.partial(place_batch, mesh),
        shardings=whole,
    )
    state = jax.tree.map(placed, jax.eval_shape(steps.init, factors), whole)
    return steps, state, jax.tree.map(placed, params, shardings(mesh, specs))


def placed(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def losses(kind, adapter, mesh):
    steps, state, base = set_up(kind, adapter, mesh)
    params = params_of(kind)
    factors = jax.device_get(jax.jit(adapter.init)(jax.random.key(2), params))
    base = jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), params, base)
    state = steps.init(jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), factors, state.factors))
    found = []
    for batch in batches(kind):
        state, metrics = steps.train(state, base, [batch])
        found.append(metrics["loss"])
    return np.array(jax.device_get(found))


@pytest.fixture(scope="module")
def on_one_device():
    """The losses on one device, as they are asked for."""
    return functools.cache(lambda kind, name: losses(kind, METHODS[name], make_mesh(1, 1, 1)))


def agrees(kind, name, shape, on_one_device):
    wanted = on_one_device(kind, name)
    assert wanted[-1] < wanted[0] - 0.05
    np.testing.assert_allclose(losses(kind, METHODS[name], make_mesh(*shape)), wanted, atol=1e-4)


def test_a_mesh_trains_as_one_device_does(on_one_device):
    agrees("gpt2", "hut", (2, 2, 2), on_one_device)


@pytest.mark.full
@pytest.mark.parametrize(
    ("shape", "name", "kind"),
    [
        (shape, name, list(KINDS)[(i // 2 + j) % 2])
        for i, shape in enumerate(MESHES)
        for j, name in enumerate(("hut", ("lora", "full")[i % 2]))
    ],
)
def test_every_mesh_trains_as_one_device_does(shape, name, kind, on_one_device):
    """Every mesh with HUT, with LoRA or full fine-tuning, and with both models."""
    agrees(kind, name, shape, on_one_device)


@pytest.mark.full
@pytest.mark.parametrize("name", ["hut all", "hut r=1", "hut kronecker", "hut sum", "hut product"])
def test_every_form_of_hut_trains_on_a_mesh(name, on_one_device):
    agrees("gpt2", name, (2, 2, 2), on_one_device)


def collectives(kind, name, mesh):
    """Of the compiled gradient, the numbers that each kind of collective gives each device."""
    steps, state, base = set_up(kind, METHODS[name], mesh)
    batch = place_batch(mesh, next(batches(kind)))
    compiled = steps.lower(state, base, batch)[0].compile()
    return count_collectives(compiled.as_text())


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((2, 2, 2), "hut"),
        *(
            pytest.param(shape, "hut", marks=pytest.mark.full)
            for shape in [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 2, 1), (1, 1, 8)]
        ),
        *(pytest.param((2, 2, 2), name, marks=pytest.mark.full) for name in ("hut kronecker", "hut product")),
    ],
)
def test_hut_sends_what_lora_sends_and_the_difference_in_factors(shape, name):
    """Its gradient of W, as large as the kernel, stays where it is."""
    mesh = make_mesh(*shape)
    hut, lora = (collectives("gpt2", one, mesh) for one in (name, "lora"))
    assert hut
    assert hut.keys() <= lora.keys()
    params = shapes_of(gpt2())
    more = METHODS["hut"].count(params).trainable - METHODS["lora"].count(params).trainable
    assert 0 < more < 64 * 64
    assert sum(hut.values()) <= sum(lora.values()) + more


def test_heads_that_devices_cannot_share_out_are_refused():
    check_heads(8, make_mesh(2, 2, 2))
    with pytest.raises(UserError, match=r"mesh.tensor=8 does not divide the model's 12 heads; .*do: 1, 2, 3, 4, 6"):
        check_heads(12, make_mesh(1, 1, 8))


TPU_FORMS = {
    "block": HUT(rank=4),
    "cyclic": HUT(rank=4, spread="cyclic"),
    "by activations": HUT(rank=1),
    "without scale and shift": HUT(rank=2, scale=False, shift=False),
}


@pytest.mark.full
@pytest.mark.parametrize(
    "form",
    [
        "cyclic",
        *(pytest.param(f, marks=pytest.mark.full) for f in TPU_FORMS if f != "cyclic"),
    ],
)
def test_an_update_lowers_for_tpus(form, monkeypatch):
    """In bf16, over a mesh, layers scanned and computed again: what a TPU pod runs."""
    mesh = make_mesh(2, 2, 2)
    adapter = Adapter(TPU_FORMS[form], "attention/|mlp/")
    steps, state, base = set_up(
        "gpt2", adapter, mesh, gpt2(layers=2, dtype=jnp.bfloat16, scan_layers=True, remat="full")
    )
    batch = place_batch(mesh, next(batches("gpt2")))
    update = jax.jit(lambda state, base, batch: steps.train(state, base, [batch]))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # as attention asks
    module = jax.export.export(update, platforms=["tpu"])(state, base, batch).mlir_module()
    assert "stablehlo.dot_general" in module
    assert "bf16" in module


def test_factors_lie_with_their_kernels():
    mesh = make_mesh(2, 2, 2)
    for options in ({}, {"scan_layers": True}):
        params = shapes_of(gpt2(layers=2, **options))
        layer, stack = ("layers", (None,)) if options else ("layer_1", ())
        specs = param_specs(params, TRANSFORMER, mesh)
        assert specs[layer, "attention", "query", "kernel"] == P(*stack, "fsdp", "tensor")
        assert specs[layer, "attention", "query", "bias"] == P()
        assert specs["token_embedding", "embedding"] == P(None, "fsdp")
        hut = factor_specs(Adapter(HUT(rank=2), "attention/out|mlp/up").sites(params), specs)
        assert hut[layer, "attention", "out", "a"] == P(*stack, "tensor", None)
        assert hut[layer, "attention", "out", "b"] == P(*stack, None, "fsdp")
        assert hut[layer, "attention", "out", "g"] == P(*stack, "fsdp")
        assert hut[layer, "mlp", "up", "a"] == P(*stack, "fsdp", None)
        assert hut[layer, "mlp", "up", "s"] == P(*stack, "tensor")
        whole = factor_specs(Adapter(Full()).sites(params), specs)
        assert whole[layer, "mlp", "down", "kernel", "d"] == P(*stack, "tensor", "fsdp")


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if not TRANSFORMS[name].whole_leaves])
def test_every_transformations_factors_have_known_axes(name):
    """A factor's axis of a kernel's size is named for it, and no rank is."""
    params = {"a": {"kernel": np.zeros((8, 12), np.float32), "bias": np.zeros(12, np.float32)}}
    (site,) = (
        Adapter(TRANSFORMS[name](), "a").sites(params) if name != "hut" else Adapter(HUT(rank=4), "a").sites(params)
    )
    sizes = {"d": 8, "k": 12}
    for factor, shape in site.factors.items():
        axes = site.factor_axes[factor]
        assert any(axes)
        assert all(sizes.get(axis, size) == size for axis, size in zip(axes, shape, strict=True))


def test_a_foreign_models_largest_axes_are_split():
    mesh = make_mesh(2, 4, 1)
    params = {
        "a": {"kernel": np.zeros((6, 16)), "bias": np.zeros(16)},
        "b": np.zeros((12, 8, 5)),
        "c": np.zeros((3, 5)),
    }
    specs = param_specs(params, None, mesh)
    assert specs == {("a", "kernel"): P(None, "fsdp"), ("a", "bias"): P(), ("b",): P("fsdp"), ("c",): P()}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 1, 1), None),
        ((-1, 3, 1), r"config.mesh: fsdp 3 x tensor 1 is 3, which does not divide 8; sizes that fit: 1, 2, 4, 8"),
        ((4, 4, 1), r"data 4 x fsdp 4 x tensor 1 is 16, which is more than the 8 devices"),
        ((-1, -1, 1), r"config.mesh.data and config.mesh.fsdp are both -1"),
        ((0, 1, 1), r"config.mesh.data is 0; it must be 1 or more, or -1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(sizes, message):
    if message is None:
        assert make_mesh(*sizes).shape == {"data": 3, "fsdp": 1, "tensor": 1}
        return
    with pytest.raises(UserError, match=message):
        make_mesh(*sizes)


def test_what_does_not_divide_is_one_line():
    params = shapes_of(gpt2())
    with pytest.raises(
        UserError, match=r"kernel \[64, 64\]: config.mesh.fsdp=3 does not divide its axis 0; sizes that do: 1, 2"
    ):
        param_specs(params, TRANSFORMER, make_mesh(1, 3, 1))
    with pytest.raises(UserError, match=r"eval.batch_size is 6, and .* = 4 devices; give a multiple of 4, such as 8"):
        check_batch("config.eval.batch_size", 6, make_mesh(2, 2, 2))


@pytest.mark.full
def test_a_run_goes_on_on_another_mesh(finished, small_config, tmp_path, monkeypatch, capsys):
    """Stopped on one device, ended on eight."""
    judge = Evaluation.__call__

    def stopped(self, base, factors, batches):
        judged = judge(self, base, factors, batches)
        signal.raise_signal(signal.SIGTERM)
        return judged

    monkeypatch.setattr(Evaluation, "__call__", stopped)
    with pytest.raises(Interrupted):
        train(freeze(small_config), tmp_path / "run")
    monkeypatch.setattr(Evaluation, "__call__", judge)
    small_config.mesh.update({"data": -1, "fsdp": 2, "tensor": 2})
    capsys.readouterr()
    train(freeze(small_config), tmp_path / "run")
    assert "mesh data 2 x fsdp 2 x tensor 2; parameters: " in capsys.readouterr().out
    found, wanted = ([line["loss"] for line in read_metrics(run)] for run in (tmp_path / "run", finished))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
