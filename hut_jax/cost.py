"""What adapters cost, from shapes alone: python -m hut_jax.cost --config=configs/e2e.py --config.model=gpt2

builds the model from its config.json (no weights and no data are read) and prints a line an adapter: the numbers that
train, the FLOPs of a forward pass and of a training step, what the adapter adds to both on paper, and the bytes of
factors, optimiser state and checkpoint. docs/cost.md explains the columns.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from hut_jax.adapters.adapter import Adapter, Count
from hut_jax.adapters.site import Site
from hut_jax.config import resolve, set_transform, validate
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.trees import Path
from hut_jax.costs.flops import Flops, count_flops, xla_flops
from hut_jax.models.hub.pretrained import build_model, init_params
from hut_jax.runs import config_files
from hut_jax.runs.run import anywhere, head, make_adapter, model_options, rates
from hut_jax.tasks.causal_lm import causal_lm_loss
from hut_jax.tasks.glue import classification_loss, regression_loss
from hut_jax.tasks.mlm import PREDICTED, masked_lm_loss
from hut_jax.training.optimizer import make_optimizer
from hut_jax.training.steps import Batch, Loss, State, Steps
from hut_jax.transforms import TRANSFORMS
from hut_jax.transforms.base import Cost

ADAPTERS = "hut:rank=1,hut:rank=8,lora,dora,hira,loha,ia3,ssf,bitfit,layernorm,full"
"""What is compared where nothing else is asked for."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("hut_jax.cost", __doc__ or "")
    parser.add_argument("--batch", type=int, metavar="N", help="examples of an update; the config's batch_size")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of an example; the longest of the config's")
    parser.add_argument(
        "--adapters",
        default=ADAPTERS,
        metavar="LIST",
        help=f"names with their settings, as in hut:rank=8:spread=cyclic,lora; if not given {ADAPTERS}. Those of dense "
        "layers act on the config's targets, those of whole parameters on their own",
    )
    parser.add_argument("--xla", action="store_true", help="compile, and show XLA's own count beside ours")
    args, config = config_files.parse_with_config(parser, argv)
    if args.batch is not None:
        config.train.batch_size = args.batch
        validate(config)
    if args.length is not None and args.length < 1:
        raise UserError(f"--length is {args.length}; it must be at least 1")
    if args.xla and config.train.scan_layers:
        raise UserError("XLA counts a loop over layers once; --xla wants --config.train.scan_layers=False")
    configs = {text: with_adapter(config, text) for text in map(str.strip, args.adapters.split(","))}

    work = make_work(anywhere(config), args.length)
    costs = {text: adapter_cost(one, work, xla=args.xla) for text, one in configs.items()}
    batch, length = work.inputs["input_ids"].shape
    print(_table(work.frozen, costs))
    print(
        f"{config.model}: {next(iter(costs.values())).count.total:,} numbers; {batch} examples of {length} tokens.\n"
        "x: times the frozen model's forward pass. On paper: what the adapter adds to the frozen model. "
        "See docs/cost.md."
    )
    return 0


def with_adapter(config: ConfigDict, text: str) -> ConfigDict:
    """The config with the adapter that the text names, such as `hut:rank=8:spread=cyclic`, and its learning rates.

    A setting that the text does not give is the config's where it is of the same transformation, else the default.

    Raises:
        UserError: there is no such transformation or setting, or a value is not of its type.
    """
    name, *settings = text.split(":")
    copy = config.copy_and_resolve_references()
    if name != config.adapter.name:
        set_transform(copy, name)
        whole_leaves = any(TRANSFORMS[one].whole_leaves for one in (name, config.adapter.name))
        if whole_leaves:  # patterns of layers are none of parameters
            copy.adapter.update({field: () for field in ("targets", "exclude", "layout")})
        if whole_leaves or "rank" not in copy.adapter:
            copy.adapter.ranks = ()
    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--adapters: {setting!r} in {text!r} is no setting; write it as in hut:rank=8")
        if setting.startswith("name="):
            raise UserError(f"--adapters: {text!r} names a second transformation; write it in front, as in hut:rank=8")
    config_files.override(copy, [f"--config.adapter.{setting}" for setting in settings])
    return resolve(copy)


@dataclass(frozen=True)
class Work:
    """What a model does in one update, as shapes.

    Attributes:
        model: of this library.
        params: of its parameters.
        inputs: of its arguments in a forward pass.
        batches: of an update's batches.
        loss: as a task has it.
    """

    model: Any
    params: PyTree
    inputs: Batch
    batches: Sequence[Batch]
    loss: Loss

    @cached_property
    def frozen(self) -> Flops:
        """What a forward pass without an adapter computes."""
        return count_flops(self._forward, self.params, self.inputs)

    @cached_property
    def calls(self) -> Mapping[Path, "Call"]:
        """The modules that a forward pass runs, by '/'-joined path."""
        calls = {}

        def note(next_fun, args, kwargs, context):
            module, result = context.module, next_fun(*args, **kwargs)
            if context.method_name == "__call__" and module.scope is not None and isinstance(result, jax.Array):
                own = module.variables.get("params", {})
                leaves = {name: leaf.shape for name, leaf in own.items() if not isinstance(leaf, Mapping)}
                calls[module.scope.path] = Call(result.size, leaves)
            return result

        with nn.intercept_methods(note):
            jax.eval_shape(self._forward, self.params, self.inputs)
        return calls

    def _forward(self, params: PyTree, inputs: Batch) -> Any:
        return self.model.apply({"params": params}, **inputs)


class Call(NamedTuple):
    """A module that ran.

    Attributes:
        returned: how many numbers it returned.
        leaves: the shapes of its own parameters, of one layer where layers are scanned over.
    """

    returned: int
    leaves: Mapping[str, tuple[int, ...]]


def make_work(config: ConfigDict, length: int | None = None) -> Work:
    """An update of the config's model, with the loss of its task. No position of it is padding.

    Args:
        config: of a run.
        length: tokens of an example; by default of the longest that the config and the model allow.

    Raises:
        UserError: there is no such task, or the model cannot be had.
    """
    model = build_model(config.model, **head(config), **model_options(config))
    longest = config.data.block if config.task in ("lm", "mlm") else config.data.max_length
    length = min(longest, model.config.n_positions) if length is None else length
    accumulate = config.train.accumulate
    loss, batch = _loss_and_batch(model.config, config.train.batch_size // accumulate, length)
    return Work(
        model,
        jax.eval_shape(lambda: init_params(model, jax.random.key(0), dtype=model.dtype)),
        _inputs(model.config, config.train.batch_size, length),
        [batch] * accumulate,
        loss,
    )


def _inputs(model: Any, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The arguments of a forward pass, for a model of this config."""
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    inputs = {"input_ids": ids, "attention_mask": jax.ShapeDtypeStruct((rows, length), jnp.bool_)}
    if model.head == "classification":
        return inputs | {"token_type_ids": ids}
    predicted = length if model.head == "causal" else max(1, round(PREDICTED * length))
    return inputs | {"logits_at": jax.ShapeDtypeStruct((rows * predicted,), jnp.int32)}


def _loss_and_batch(model: Any, rows: int, length: int) -> tuple[Loss, Batch]:
    """The loss of the tasks that train a model of this config, and the batch that the loss takes."""
    batch = _inputs(model, rows, length)
    if model.head == "mlm":
        del batch["logits_at"]  # drawn by the loss; which tokens mean what changes no count
        return partial(masked_lm_loss, cls=0, sep=1, mask=2, vocab=model.vocab_size), batch
    labels = (rows,) if model.head == "classification" else batch["logits_at"].shape
    regression = model.head == "classification" and model.problem_type == "regression"
    batch["labels"] = jax.ShapeDtypeStruct(labels, jnp.float32 if regression else jnp.int32)
    batch["weights"] = jax.ShapeDtypeStruct(labels, jnp.float32)
    if model.head == "causal":
        return causal_lm_loss, batch
    return regression_loss if regression else classification_loss, batch


@dataclass(frozen=True)
class AdapterCost:
    """What one adapter of a model costs.

    Attributes:
        count: the numbers that train.
        forward: FLOPs of the adapted model's forward pass.
        step: FLOPs of a training step, from the batches to the new factors.
        paper: what the adapter adds to a forward and a backward pass by its formulas; None where there are none.
        factor_bytes: of the factors, which is an adapter's file but for its names.
        optimizer_bytes: of the optimiser's state.
        checkpoint_bytes: of the arrays in a checkpoint, before Orbax compresses them.
        xla: XLA's own counts of forward and step, if they were asked for.
    """

    count: Count
    forward: Flops
    step: Flops
    paper: Cost | None
    factor_bytes: int
    optimizer_bytes: int
    checkpoint_bytes: int
    xla: tuple[Flops, Flops] | None


def adapter_cost(config: ConfigDict, work: Work, *, xla: bool = False) -> AdapterCost:
    """What the config's adapter costs. Nothing is allocated or run, and only for `xla` anything compiled.

    Args:
        config: with its learning rates resolved.
        work: what the model does.
        xla: whether XLA counts too.

    Raises:
        UserError: the adapter does not fit the model.
    """
    params = work.params
    adapter, steps = make_steps(config, work)
    apply = partial(adapter.apply, work.model)
    factors = jax.eval_shape(adapter.init, jax.random.key(0), params)
    state: State = jax.eval_shape(steps.init, factors)

    def forward(params, factors, inputs):
        return apply(params, factors, **inputs)

    a_forward = forward, params, factors, work.inputs
    a_step = steps.train, state, params, work.batches
    return AdapterCost(
        count=adapter.count(params),
        forward=count_flops(*a_forward),
        step=count_flops(*a_step),
        paper=paper_cost(adapter, work),
        factor_bytes=tree_bytes(state.factors),
        optimizer_bytes=tree_bytes(state.opt_state),
        checkpoint_bytes=tree_bytes(state),
        xla=(xla_flops(*a_forward), xla_flops(*a_step)) if xla else None,
    )


def make_steps(config: ConfigDict, work: Work) -> tuple[Adapter, Steps]:
    """The config's adapter and its training update, on one device and at a constant rate: no count depends on it.

    Args:
        config: with its learning rates resolved.
        work: what the model does.

    Raises:
        UserError: the adapter does not fit the model.
    """
    adapter, train = make_adapter(config), config.train.copy_and_resolve_references()
    train.warmup, train.decay = 0.0, "constant"
    steps = Steps(
        partial(adapter.apply, work.model),
        work.loss,
        make_optimizer(train, 1, rates(config, adapter, work.params)),
        label_smoothing=train.label_smoothing,
        dropout=train.dropout,
    )
    return adapter, steps


def paper_cost(adapter: Adapter, work: Work) -> Cost | None:
    """The sum of the transformations' own formulas over all that the adapter acts on; None where one has none."""
    forward = backward = 0
    for site in adapter.sites(work.params):
        use = _use(site, work)
        if use is None:
            continue
        cost = site.transform.cost(use.n, use.d, use.k, use.leaf)
        if cost is None:
            return None
        forward, backward = forward + use.layers * cost.forward, backward + use.layers * cost.backward
    return Cost(forward, backward)


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all its arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class _Use(NamedTuple):
    """The arguments of `Transform.cost`, and in how many stacked layers it is so."""

    n: int
    d: int
    k: int
    leaf: str
    layers: int


def _use(site: Site, work: Work) -> _Use | None:
    """How the model uses what is adapted; None where its module never ran."""
    *module, leaf = site.path if site.layout is None else (*site.path, "kernel")
    call = work.calls.get(tuple(module))
    if call is None:
        return None
    if site.layout is not None:
        k = math.prod(site.shape[site.layout.stacked + site.layout.inputs :])
    else:
        k = math.prod(call.leaves.get("bias", call.leaves[leaf][-1:]))
    size = math.prod(call.leaves[leaf])
    use = _Use(call.returned // k, size // k, k, leaf, math.prod(site.shape) // size)
    config = work.model.config
    if (
        site.path == ("token_embedding", "embedding")
        and config.head in ("causal", "mlm")
        and config.tie_word_embeddings
    ):
        logits = work.calls[()].returned // config.vocab_size
        return use._replace(n=logits, leaf="kernel")  # the head's, beside which the lookups are little
    return use


def _table(frozen: Flops, costs: Mapping[str, AdapterCost]) -> str:
    """A Markdown table with aligned columns."""
    head = ["adapter", "train", "%", "forward", "x", "step", "x", "+forward on paper", "+backward on paper"]
    head += ["factors, B", "optimiser, B", "checkpoint, B"]
    if any(cost.xla for cost in costs.values()):
        head += ["XLA forward", "ours / XLA", "XLA step", "ours / XLA"]
    rows = [["frozen", "0", "0", _si(frozen.flops), "1", *["-"] * (len(head) - 5)]]
    for text, cost in costs.items():
        row = [text, f"{cost.count.trainable:,}", f"{cost.count.percent:.3f}"]
        for ours in (cost.forward, cost.step):
            row += [_si(ours.flops), f"{ours.flops / frozen.flops:.4f}"]
        row += ["-", "-"] if cost.paper is None else [_si(cost.paper.forward), _si(cost.paper.backward)]
        row += [f"{size:,}" for size in (cost.factor_bytes, cost.optimizer_bytes, cost.checkpoint_bytes)]
        for ours, theirs in zip((cost.forward, cost.step), cost.xla or (), strict=False):
            row += [_si(theirs.flops), f"{ours.flops / theirs.flops:.4f}"]
        rows.append(row)
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in [head, *rows]]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _si(number: int) -> str:
    """Four digits and a prefix, such as 2.037 G."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.4g} {prefix}"
    return str(number)


if __name__ == "__main__":
    cli.run(main)
