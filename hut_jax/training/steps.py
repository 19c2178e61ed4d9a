"""The compiled training step: gradients of the factors, then the optimiser."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from hut_jax.core.compilation import Program
from hut_jax.data.batching import Batch
from hut_jax.data.loss import Loss

Forward = Callable[..., Array]
"""`forward(base, factors, *args, **kwargs)`: the adapted model."""


@flax.struct.dataclass
class State:
    """The state that a training step changes."""

    step: Array
    factors: PyTree[Array]
    opt_state: PyTree[Array]


class Steps:
    """The compiled training step.

    The base is an argument of the step, and not closed over. It is not copied into the compiled code, not donated, and
    has no gradient.

    Args:
        forward: the adapted model.
        loss: the training loss of a batch.
        optimizer: the optimiser of the factors.
        dropout: whether to use the model's own dropout.
        seed: the seed of dropout.
        rates: more arguments of the optimiser's `update`: numbers, or trees of them. They are arguments of the compiled
            step, too: runs that differ only in them have the same program.
        place: puts a batch on the devices that share it out.
        shardings: the shardings of the state before and after a step, from `state_shardings`.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        *,
        dropout: bool = True,
        seed: int = 0,
        rates: Mapping[str, PyTree[float]] = MappingProxyType({}),
        place: Callable[[Batch], Batch] = lambda batch: batch,
        shardings: State | None = None,
    ):
        self._forward, self._loss, self._optimizer = forward, loss, optax.with_extra_args_support(optimizer)
        self._dropout, self._place = dropout, place
        self._key = jax.random.key(seed)
        self._rates = jax.tree.map(np.float32, dict(rates))
        # The gradient and the optimiser are compiled separately, and the key is an argument. Runs that differ only in
        # seed or learning rates then share all code in a compilation cache. Those that differ in length, too, share the
        # gradient's: nearly all of the code.
        whole = None if shardings is None else shardings.step
        sums = None if shardings is None else (shardings.factors, whole, whole, whole)
        self._init = jax.jit(self._first, out_shardings=shardings)
        self._gradients = Program(self._sum_gradients, out_shardings=sums)
        self._add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)
        self._apply = jax.jit(self._update, donate_argnums=0, out_shardings=(shardings, whole))

    def init(self, factors: PyTree[Array]) -> State:
        """The state before the first step. It has its own copy of the factors, which the first step donates."""
        return self._init(factors)

    def train(self, state: State, base: PyTree, batches: Sequence[Batch]) -> tuple[State, dict[str, Array]]:
        """One step on all of these batches. The old state is donated.

        Returns:
            The new state, and the step's figures: the mean training loss, its total weight, the gradient's norm, and
            the number of tokens without padding.
        """
        sums = self._gradients(state.factors, base, self._place(batches[0]), self._key, state.step, 0)
        for part, batch in enumerate(batches[1:], start=1):
            more = self._gradients(state.factors, base, self._place(batch), self._key, state.step, part)
            sums = self._add(sums, more)
        return self._apply(state, sums, self._rates)

    def lower(self, state: State, base: PyTree, batch: Batch) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
        """The two programs that `train` runs on a batch, for measuring: the gradient and the optimiser."""
        arguments = state.factors, base, self._place(batch), self._key, state.step, 0
        gradients = self._gradients.lower(*arguments)
        return gradients, self._apply.lower(state, jax.eval_shape(self._gradients, *arguments), self._rates)

    def _first(self, factors):
        return State(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, factors), self._optimizer.init(factors))

    def _sum_gradients(self, factors, base, batch, key, step, part):
        """Gradients of the summed loss, the summed loss and its weight. The sums of all parts are those of the step."""
        key = jax.random.fold_in(jax.random.fold_in(key, step), part)

        def loss(factors):
            apply = partial(self._forward, base, factors)
            total, weight, _ = self._loss(apply, batch, deterministic=not self._dropout, rngs={"dropout": key})
            return total, weight

        (total, weight), gradients = jax.value_and_grad(loss, has_aux=True)(factors)
        return gradients, total, weight, jnp.sum(batch["attention_mask"])

    def _update(self, state, sums, rates):
        gradients, total, weight, tokens = sums
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.factors, **rates)
        factors = optax.apply_updates(state.factors, updates)
        metrics = {"loss": total / weight, "weight": weight, "tokens": tokens}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return State(state.step + 1, factors, opt_state), metrics


def state_shardings(
    optimizer: optax.GradientTransformation, factors: PyTree[Any], shardings: PyTree[NamedSharding]
) -> State:
    """The shardings of a state. The optimiser's arrays for a factor lie beside the factor; scalars are on every device.

    Args:
        optimizer: the optimiser of the factors.
        factors: the factors or their shapes.
        shardings: the shardings of the factors.
    """
    any_factor, *_ = jax.tree.leaves(shardings)
    whole = NamedSharding(any_factor.mesh, PartitionSpec())
    opt_state = jax.eval_shape(optimizer.init, factors)
    placed = optax.tree_map_params(
        optimizer, lambda _, sharding: sharding, opt_state, shardings, transform_non_params=lambda _: whole
    )
    return State(cast(Any, whole), shardings, placed)
