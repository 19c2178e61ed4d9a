"""What adapters are said to cost, against the counter, XLA and the files that a run writes."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax import Adapter, UserError, cost, save_adapter
from hut_jax.adapters.files import size_on_disk
from hut_jax.config import default_config, freeze, set_transform, with_fields
from hut_jax.costs.flops import count_flops
from hut_jax.data.batching import Batches, Batching
from hut_jax.data.labelled_texts import LabelledTexts
from hut_jax.data.sequences import Sequences
from hut_jax.runs.adapter_names import with_adapter
from hut_jax.runs.costs import adapter_cost, make_work, paper_cost
from hut_jax.runs.run import multipliers
from hut_jax.training.checkpoint import Checkpoints
from hut_jax.training.optimizer import make_optimizer
from hut_jax.training.steps import Steps
from hut_jax.transforms import (
    HUT,
    IA3,
    SSF,
    TRANSFORMS,
    BitFit,
    DoRA,
    Full,
    HiRA,
    LayerNorm,
    LoHa,
    LoRA,
    LoRAPlus,
    Transform,
)

N, D, K = 4096, 1024, 1536


def shapes(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


# One layer -------------------------------------------------------------------------------------------------------

LAYERS = {
    "hut": HUT(rank=8),
    "hut-64": HUT(rank=64, spread="cyclic"),
    "hut-kernel-alone": HUT(rank=8, scale=False, shift=False),
    "hut-kronecker": HUT(rank=8, spread="kronecker"),
    "hut-sum": HUT(rank=8, spread="sum"),
    "hut-product": HUT(rank=8, spread="product"),
    "hut-product-64": HUT(rank=64, spread="product", scale=False),
    "hut-rank1": HUT(rank=1),
    "hut-rank1-kernel-alone": HUT(rank=1, scale=False, shift=False),
    "lora": LoRA(rank=8),
    "lora-64": LoRA(rank=64, rs=True),
    "lora_plus": LoRAPlus(),
    "dora": DoRA(rank=8),
    "dora-64-with-the-norms-gradient": DoRA(rank=64, detach=False),
    "hira": HiRA(rank=16),
    "loha": LoHa(rank=16),
    "ia3": IA3(feedforward=""),
    "ia3-of-inputs": IA3(side="input"),
    "ssf": SSF(),
    "ssf-scale": SSF(shift=False),
    "bitfit": BitFit(),
    "layernorm": LayerNorm(),
    "full": Full(),
    "full-norm": Full(),
    "full-embedding": Full(),
}


def test_every_transformation_is_among_these():
    assert {type(transform) for transform in LAYERS.values()} == {*TRANSFORMS.values()}


def counted(adapter, layer, x):
    """What the adapter adds to the layer's output, and to that with all gradients."""
    params = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    factors = jax.eval_shape(adapter.init, jax.random.key(0), params)
    learned = x.dtype == jnp.float32  # tokens have no gradient

    def run(params, factors, x):
        return adapter.apply(layer, params, factors, x) if factors else layer.apply({"params": params}, x)

    def run_and_pull(params, factors, x, g):
        function = (lambda f, x: run(params, f, x)) if learned else lambda f: run(params, f, x)
        y, pull = jax.vjp(function, *((factors, x) if learned else (factors,)))
        return y, pull(g)

    y = jax.eval_shape(run, params, factors, x)
    frozen, adapted = (count_flops(run, params, f, x).flops for f in ({}, factors))
    frozen_both, adapted_both = (count_flops(run_and_pull, params, f, x, y).flops for f in ({}, factors))
    forward = adapted - frozen
    return params, forward, adapted_both - frozen_both - forward


@pytest.mark.parametrize("name", LAYERS)
def test_the_formula_of_a_layer_is_what_is_counted(name):
    transform, x = LAYERS[name], shapes(N, D)
    layer = nn.Dense(K)
    if name in ("layernorm", "full-norm"):
        layer = nn.LayerNorm(use_fast_variance=False)
    if name == "full-embedding":
        layer, x = nn.Embed(D, K), shapes(N, dtype=jnp.int32)
    adapter = Adapter(transform, "" if transform.whole_leaves else "^layer$")
    params, forward, backward = counted(adapter, Around(layer), x)
    expected = []
    for site in adapter.sites(params):
        leaf = "kernel" if site.layout is not None else site.path[-1]
        expected.append(site.transform.cost(N, math.prod(site.shape[:-1]), site.shape[-1], leaf))
    assert sum(one.forward for one in expected) == pytest.approx(forward, rel=0.02)
    assert sum(one.backward for one in expected) == pytest.approx(backward, rel=0.02)


class Around(nn.Module):
    """A model of one layer, which so has a path."""

    layer: nn.Module

    def __call__(self, x):
        return self.layer(x)


def test_the_work_of_hut_grows_with_the_rank_as_its_factors_do_and_forward_not_with_the_tokens():
    def kernel(rank, n):
        return HUT(rank=rank, scale=False, shift=False).cost(n, D, K)

    for low, high in zip(kernel(8, N), kernel(64, N), strict=True):
        assert high - low == 56 * (D + K)
    assert kernel(8, N).forward == kernel(8, 2 * N).forward
    assert kernel(8, 2 * N).backward > 1.9 * kernel(8, N).backward
    assert LoRA(rank=64).cost(N, D, K).forward > 7 * LoRA(rank=8).cost(N, D, K).forward


# A model ---------------------------------------------------------------------------------------------------------

GPT2 = {"model_type": "gpt2", "vocab_size": 1024, "n_positions": 128, "n_layer": 2, "n_head": 4}
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 1024,
    "max_position_embeddings": 130,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}


@pytest.fixture
def work_of(tmp_path):
    """From a family, a width, a task and config fields to a config and its model's work on rows of 64 tokens."""

    def make(family, width, task=None, **train):
        (tmp_path / family).mkdir(exist_ok=True)
        sizes = {"n_embd": width} if family == "gpt2" else {"hidden_size": width, "intermediate_size": 4 * width}
        values = {"gpt2": GPT2, "roberta": ROBERTA}[family] | sizes
        (tmp_path / family / "config.json").write_text(json.dumps(values))
        config = default_config(task or {"gpt2": "e2e", "roberta": "rte"}[family])
        config.model = str(tmp_path / family)
        config.train.batch_size = 4
        config.train.update(train)
        frozen = freeze(config)
        return frozen, make_work(frozen, 64)

    return make


def assert_as_xla_counts(result):
    for ours, theirs in zip((result.forward, result.step), result.xla, strict=True):
        assert ours.flops == pytest.approx(theirs.flops, rel=0.02)
    # In a step XLA may share an exponential between a function and its gradient.
    assert result.forward.transcendentals == pytest.approx(result.xla[0].transcendentals, rel=0.02)


@pytest.mark.parametrize(
    ("family", "adapter"), [("gpt2", "hut:rank=8"), pytest.param("roberta", "lora", marks=pytest.mark.full)]
)
def test_a_forward_pass_and_a_step_are_counted_as_xla_counts_them(work_of, family, adapter):
    config, work = work_of(family, 128, dropout=False)
    assert_as_xla_counts(adapter_cost(with_adapter(config, adapter), work, xla=True))


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "adapter"), [("gpt2", "hut:rank=1"), ("gpt2", "full"), ("roberta", "hut:rank=64"), ("roberta", "hira")]
)
def test_every_step_with_dropout_is_counted_as_xla_counts_it(work_of, family, adapter):
    config, work = work_of(family, 256)
    assert_as_xla_counts(adapter_cost(with_adapter(config, adapter), work, xla=True))


@pytest.mark.full
def test_on_paper_and_counted_a_model_differs_from_the_frozen_one_alike(work_of):
    config, work = work_of("gpt2", 256, batch_size=32)
    # The formulas hold of a layer in the middle, whose input has a gradient: so something below the first must train.
    config = with_fields(config, {"adapter.also_train": ("position_embedding",)})
    names = ("hut:rank=1", "hut:rank=8", "lora", "hira", "full")
    costs = {name: adapter_cost(with_adapter(config, name), work) for name in names}
    for name, one in costs.items():
        assert one.paper.forward == pytest.approx(one.forward.flops - work.frozen.flops, rel=0.03), name
    # Two steps differ by what the formulas say, and by an optimiser that is not in them.
    for name in ("lora", "hut:rank=8", "full"):
        one, other = costs["hut:rank=1"], costs[name]
        on_paper = sum(other.paper) - sum(one.paper)
        assert on_paper == pytest.approx(other.step.flops - one.step.flops, rel=0.03), name


@pytest.mark.full
def test_gradients_of_what_is_frozen_are_not_in_the_step(work_of):
    config, work = work_of("gpt2", 256, dropout=False)
    kernels = 12 * 256**2 * 2 + 1024 * 256  # of two layers and the head
    full, lora = (adapter_cost(with_adapter(config, name), work).step.flops for name in ("full", "lora"))
    assert full - lora > 0.9 * 2 * (4 * 64) * kernels


@pytest.mark.full
@pytest.mark.parametrize("task", ["e2e", "lm", "mlm", "rte", "stsb"])
def test_the_batches_that_are_counted_are_those_of_the_task(work_of, task):
    config, work = work_of("gpt2" if task in ("e2e", "lm") else "roberta", 128, task)
    tokens = [[5] * 65] * 4
    if task in ("rte", "stsb"):
        tokens = [one[:64] for one in tokens]
        labels = np.zeros(4, np.float32 if task == "stsb" else np.int32)
        examples = LabelledTexts(tokens, [[0] * 64] * 4, labels, pad_id=1)
    else:
        examples = Sequences.from_lists(tokens, [1] * 4)
    real = Batches(examples, Batching(4))[0]
    (counted,) = work.batches
    assert counted.keys() == real.keys() if task != "mlm" else counted.keys() < real.keys()
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in counted.items()} == {
        name: (real[name].shape, real[name].dtype) for name in counted
    }
    assert adapter_cost(with_adapter(config, "lora"), work).step.flops > work.frozen.flops


@pytest.mark.full
@pytest.mark.parametrize("adapter", ["hut:rank=8", "bitfit"])
def test_scanned_layers_cost_what_separate_ones_do(work_of, adapter):
    (config, plain), (scanning, scanned) = (work_of("gpt2", 128, scan_layers=on) for on in (False, True))
    one = adapter_cost(with_adapter(config, adapter), plain)
    other = adapter_cost(with_adapter(scanning, adapter), scanned)
    assert (one.count, one.paper, one.factor_bytes) == (other.count, other.paper, other.factor_bytes)
    assert one.forward.flops == pytest.approx(other.forward.flops, rel=1e-4)
    # A loop cannot leave out the first layer's gradients, which no one asks for.
    assert one.step.flops <= other.step.flops <= 1.1 * one.step.flops


@pytest.mark.full
def test_an_update_in_parts_costs_what_a_whole_one_does(work_of):
    (config, whole), (parted, parts) = (work_of("gpt2", 128, accumulate=on) for on in (1, 4))
    assert [batch["input_ids"].shape for batch in parts.batches] == [(1, 64)] * 4
    one, other = (adapter_cost(with_adapter(c, "lora"), w) for c, w in ((config, whole), (parted, parts)))
    assert one.step.flops == pytest.approx(other.step.flops, rel=0.01)


@pytest.mark.full
@pytest.mark.parametrize("adapter", ["lora", "hut"])
def test_recomputed_layers_cost_up_to_one_forward_pass_more(adapter, work_of):
    runs = [work_of("gpt2", 128, remat=remat) for remat in ("none", "dots", "full")]
    kept, dots, full = (adapter_cost(with_adapter(config, adapter), work).step.flops for config, work in runs)
    layers = runs[0][1].frozen.flops - 2 * (4 * 64) * 1024 * 128
    # Less than all of it, since no gradient needs what a layer's last product gives.
    assert 0.6 * layers < full - kept < layers
    # All but the products with kernels: what is left is attention's, of each head.
    assert 0 < dots - kept < 0.1 * layers


def test_a_transformation_without_a_formula_has_no_figures_on_paper(work_of):
    @dataclasses.dataclass(frozen=True)
    class Own(Full):
        cost = Transform.cost

    _, work = work_of("gpt2", 128)
    assert paper_cost(Adapter(Own()), work) is None


# Bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_bytes_are_those_of_the_files_that_a_run_writes(work_of, tmp_path):
    config, work = work_of("gpt2", 128)
    config = with_adapter(config, "lora:rank=64:targets=all-linear")
    result = adapter_cost(config, work)
    adapter = config.adapter.make_adapter()
    random = np.random.default_rng(0)

    def fill(leaf):  # random, since Orbax compresses
        return jnp.asarray(random.standard_normal(leaf.shape), leaf.dtype)

    factors = jax.tree.map(fill, jax.eval_shape(adapter.init, jax.random.key(0), work.params))
    optimizer = make_optimizer(config.train, 1000, multipliers(config, adapter, work.params))
    state = jax.tree.map(fill, Steps(adapter.apply, work.loss, optimizer).init(factors))
    assert result.checkpoint_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert result.optimizer_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert result.count.trainable * 4 == result.factor_bytes

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, state, {})
    checkpoints.close()
    written = sum(file.stat().st_size for file in (tmp_path / "checkpoints").rglob("*") if file.is_file())
    assert written == pytest.approx(result.checkpoint_bytes, rel=0.1)

    save_adapter(tmp_path / "adapter", adapter, factors)
    names = 150 * len(jax.tree.leaves(factors)) + 2000
    assert result.factor_bytes < size_on_disk(tmp_path / "adapter") < result.factor_bytes + names


# The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def config_file(small_model, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from hut_jax.config import default_config\n"
        "def get_config():\n"
        f"    config = default_config()\n    config.model = {str(small_model)!r}\n"
        "    config.adapter.targets = ('attention/query$',)\n    return config\n"
    )
    return f"--config={file}"


NO_DROPOUT = "--config.train.dropout=False"


def rows(text):
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in lines}


@pytest.mark.full
def test_the_command_prints_a_line_an_adapter(config_file, capsys):
    assert cost.main([config_file, "--length=32", "--adapters=hut:rank=1,full"]) == 0
    text = capsys.readouterr().out
    table = rows(text)
    assert table.keys() >= {"adapter", "frozen", "hut:rank=1", "full"}
    assert table["hut:rank=1"][0] == f"{2 * 4 * 16:,}"  # two layers' queries: a, b, g and s of width 16
    assert table["full"][1] == "100.000"
    assert "8 examples of 32 tokens" in text


@pytest.mark.full
def test_the_command_compares_every_transformation_by_default(config_file, capsys):
    assert cost.main([config_file, "--length=32"]) == 0
    table = rows(capsys.readouterr().out)
    assert {*cost.ADAPTERS.split(",")} | {"adapter", "frozen"} <= table.keys()
    assert {name.split(":")[0] for name in cost.ADAPTERS.split(",")} | {"lora_plus"} == {*TRANSFORMS}


@pytest.mark.full
def test_the_command_sets_xlas_count_beside_its_own(config_file, capsys):
    cost.main([config_file, "--batch=2", "--length=16", "--adapters=hut:rank=1:scale=False", "--xla", NO_DROPOUT])
    table = rows(capsys.readouterr().out)
    assert table["adapter"][-4:] == ["XLA forward", "ours / XLA", "XLA step", "ours / XLA"]
    assert 0.5 < float(table["hut:rank=1:scale=False"][-3]) < 1.5


def test_adapters_take_the_configs_settings_where_they_are_theirs():
    given = default_config()
    given.model = "gpt2"
    set_transform(given, "hut", rank=4)
    given.adapter.update({"targets": ("mlp/up$",), "ranks": (("layer_0", 2),)})
    config = freeze(given)
    assert with_adapter(config, "hut:spread=cyclic").adapter.make_adapter().transform == HUT(rank=4, spread="cyclic")
    assert with_adapter(config, "lora").adapter.make_adapter() == Adapter(LoRA(), "mlp/up$", ranks={"layer_0": 2})
    assert with_adapter(config, "ssf:shift=False").adapter.make_adapter() == Adapter(SSF(shift=False), "mlp/up$")
    assert with_adapter(config, "bitfit").adapter.make_adapter() == Adapter(BitFit())
    assert config.adapter.transform == HUT(rank=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapters=lroa"], "unknown transformation 'lroa'; did you mean 'lora'"),
        (["--adapters=hut:rnk=8"], "unknown config field config.adapter.rnk; did you mean 'adapter.rank'"),
        (["--adapters=hut:8"], "'8' in 'hut:8' is no setting; write it as in hut:rank=8"),
        (["--adapters=hut:rank=three"], "rank"),
        (["--adapters=hut:rank=3"], "rank 3 does not divide"),
        (["--batch=0"], "config.train.batch_size is 0; it must be at least 1"),
        (["--batch=many"], "invalid int value: 'many'"),
        (["--length=0"], "--length is 0; it must be at least 1"),
        (["--length=1000"], "a sequence of 1000 tokens is longer than the model's n_positions 192"),
        (["--xla", "--config.train.scan_layers=True"], "XLA counts a loop over layers once"),
        (["--adapter=hut"], "unknown argument --adapter; did you mean '--adapters'"),
        (["--config.model=no/such/model/here"], "no such folder: no/such/model/here"),
    ],
)
def test_mistakes_are_told_in_one_line(config_file, arguments, message):
    with pytest.raises(UserError) as error:
        cost.main([config_file, *arguments])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
