"""The cost of an adapter in a run: trainable parameters, FLOPs and bytes, from shapes alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.report import Count
from hut_jax.adapters.site import Site
from hut_jax.config import RunConfig, with_fields
from hut_jax.core.trees import Path
from hut_jax.costs.flops import Flops, count_flops, xla_flops
from hut_jax.costs.modules import Call, module_calls
from hut_jax.data.batching import Batch
from hut_jax.data.loss import Loss
from hut_jax.runs.batches import training_batching
from hut_jax.runs.run import make_base, multipliers
from hut_jax.training.optimizer import make_optimizer
from hut_jax.training.steps import State, Steps
from hut_jax.transforms.base import Cost


@dataclass(frozen=True)
class Work:
    """What a model does in one step, as shapes.

    Attributes:
        model: a model of this library.
        params: the model's parameters.
        inputs: the model's arguments in a forward pass.
        batches: the step's batches.
        loss: the task's training loss.
    """

    model: Any
    params: PyTree[jax.ShapeDtypeStruct]
    inputs: Batch
    batches: Sequence[Batch]
    loss: Loss

    @cached_property
    def frozen(self) -> Flops:
        """The FLOPs of a forward pass without an adapter."""
        return count_flops(self._forward, self.params, self.inputs)

    @cached_property
    def calls(self) -> Mapping[Path, Call]:
        """The modules that a forward pass runs, by path."""
        return module_calls(self._forward, self.params, self.inputs)

    def _forward(self, params: PyTree, inputs: Batch) -> Any:
        return self.model.apply({"params": params}, **inputs)


def make_work(config: RunConfig, length: int | None = None) -> Work:
    """A step of the config's model and task, without padding.

    Args:
        config: the run's.
        length: the tokens of an example; default: the most that the config and the model allow.

    Raises:
        UserError: the task or the model cannot be loaded.
    """
    config = with_fields(config, {"train.attention": "xla"})  # every device has it
    base = make_base(config)
    task, model = base.task, base.model
    length = min(config.data.longest, model.config.n_positions) if length is None else length
    whole = task.example(model.config, config.train.batch_size, length)
    part = task.example(model.config, training_batching(config).batch_size, length, config.train.label_smoothing)
    batches = [part.batch] * config.train.accumulate
    return Work(model, base.shapes, whole.inputs, batches, part.loss)


@dataclass(frozen=True)
class AdapterCost:
    """What one adapter of a model costs.

    Attributes:
        count: the trainable parameters.
        forward: FLOPs of the adapted model's forward pass.
        step: FLOPs of a training step, from the batches to the new factors.
        paper: FLOPs that the adapter adds to a forward and a backward pass by its formulas; None if it has none.
        factor_bytes: the size of the factors. An adapter's file holds them and their names.
        optimizer_bytes: the size of the optimiser's state.
        checkpoint_bytes: the size of the arrays in a checkpoint, before Orbax compresses them.
        xla: XLA's own counts for forward and step, if requested.
    """

    count: Count
    forward: Flops
    step: Flops
    paper: Cost | None
    factor_bytes: int
    optimizer_bytes: int
    checkpoint_bytes: int
    xla: tuple[Flops, Flops] | None


def adapter_cost(config: RunConfig, work: Work, *, xla: bool = False) -> AdapterCost:
    """The cost of the config's adapter. Nothing is allocated or run. Only `xla` compiles.

    Args:
        config: the run's.
        work: what the model does.
        xla: whether to add XLA's own counts.

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


def make_steps(config: RunConfig, work: Work) -> tuple[Adapter, Steps]:
    """The config's adapter and its training step on one device.

    The learning rate is constant: no count depends on the schedule.

    Args:
        config: the run's.
        work: what the model does.

    Raises:
        UserError: the adapter does not fit the model.
    """
    adapter, train = config.adapter.make_adapter(), replace(config.train, warmup=0.0, decay="constant")
    steps = Steps(
        partial(adapter.apply, work.model),
        work.loss,
        make_optimizer(train, 1, multipliers(config, adapter, work.params)),
        dropout=train.dropout,
    )
    return adapter, steps


def paper_cost(adapter: Adapter, work: Work) -> Cost | None:
    """The sum of the transformations' own formulas over all sites; None where one has no formula."""
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
    """The size of all arrays of a tree, in bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


class _Use(NamedTuple):
    """How a model uses a site: the arguments of `Transform.cost`, and the number of stacked layers."""

    n: int
    d: int
    k: int
    leaf: str
    layers: int


def _use(site: Site, work: Work) -> _Use | None:
    """How the model uses a site; None where its module never ran."""
    *module, leaf = site.kernel
    call = work.calls.get(tuple(module))
    if call is None:
        return None
    shape = call.leaves[leaf]
    size = math.prod(shape)
    k = math.prod(call.leaves.get("bias", shape[-1:])) if site.layout is None else site.layout.k
    use = _Use(call.returned // k, size // k, k, leaf, math.prod(site.shape) // size)
    config = work.model.config
    if (
        site.path == ("token_embedding", "embedding")
        and config.head in ("causal", "mlm")
        and config.tie_word_embeddings
    ):
        logits = work.calls[()].returned // config.vocab_size
        return use._replace(n=logits, leaf="kernel")  # the tied head's product; the lookups cost little beside it
    return use
