"""The compiled training step and evaluation. They train what a loss depends on, and know no task by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

Batch = Mapping[str, Any]
Forward = Callable[..., Array]
"""`forward(base, factors, *args, **kwargs)`: the adapted model."""
Loss = Callable[..., tuple[Array, Array, Any]]
"""`loss(apply, batch, label_smoothing=, **kwargs)`: a batch's summed loss, the weight to divide it by, and whatever
metrics want to know of the batch."""


@flax.struct.dataclass
class State:
    """What a training step changes."""

    step: Array
    factors: PyTree[Array]
    opt_state: PyTree[Array]


class Steps:
    """The compiled training update.

    The base is an argument of it, never closed over: it is not copied into the compiled code, not donated, and
    has no gradient.

    Args:
        forward: the adapted model.
        loss: of a batch.
        optimizer: of what trains.
        label_smoothing: the loss function's.
        dropout: whether the model's own acts.
        seed: of dropout.
        place: puts a batch on the devices that it is shared out over.
        shardings: where the state's arrays lie, before and after an update: `state_shardings`.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        optimizer: optax.GradientTransformation,
        *,
        label_smoothing: float = 0.0,
        dropout: bool = True,
        seed: int = 0,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        shardings: State | None = None,
    ):
        self._forward, self._loss, self._optimizer = forward, loss, optimizer
        self._label_smoothing, self._dropout = label_smoothing, dropout
        self._place = place
        self._key = jax.random.key(seed)
        # Gradients and update are compiled apart, and the key is an argument: runs that differ in nothing but seed,
        # rate or length then share the gradient's code in a compilation cache, and it is nearly all there is.
        whole = None if shardings is None else shardings.step
        sums = None if shardings is None else (shardings.factors, whole, whole, whole)
        self._init = jax.jit(self._first, out_shardings=shardings)
        self._gradients = jax.jit(self._sum_gradients, out_shardings=sums)
        self._add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)
        self._apply = jax.jit(self._update, donate_argnums=0, out_shardings=(shardings, whole))

    def init(self, factors: PyTree[Array]) -> State:
        """The state before the first update. It has its own copy of the factors, which updates then give up."""
        return self._init(factors)

    def train(self, state: State, base: PyTree, batches: Sequence[Batch]) -> tuple[State, dict[str, Array]]:
        """One update from these batches together; the old state is given up.

        Returns:
            The new state, and this update's mean training loss, the weight it was divided by, the gradient's norm,
            and the tokens, without padding.
        """
        sums = self._gradients(state.factors, base, self._place(batches[0]), self._key, state.step, 0)
        for part, batch in enumerate(batches[1:], start=1):
            more = self._gradients(state.factors, base, self._place(batch), self._key, state.step, part)
            sums = self._add(sums, more)
        return self._apply(state, sums)

    def lower(self, state: State, base: PyTree, batch: Batch) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
        """What `train` runs on a batch: the gradient, which is nearly all of it, and the update. For measuring."""
        arguments = state.factors, base, self._place(batch), self._key, state.step, 0
        gradients = self._gradients.lower(*arguments)
        return gradients, self._apply.lower(state, jax.eval_shape(self._gradients, *arguments))

    def _first(self, factors):
        return State(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, factors), self._optimizer.init(factors))

    def _sum_gradients(self, factors, base, batch, key, step, part):
        """Gradients of the summed loss, and the sums to divide them by: so parts add up to the whole batch's."""
        key = jax.random.fold_in(jax.random.fold_in(key, step), part)

        def loss(factors):
            total, weight, _ = self._loss(
                partial(self._forward, base, factors),
                batch,
                label_smoothing=self._label_smoothing,
                deterministic=not self._dropout,
                rngs={"dropout": key},
            )
            return total, weight

        (total, weight), gradients = jax.value_and_grad(loss, has_aux=True)(factors)
        return gradients, total, weight, jnp.sum(batch["attention_mask"])

    def _update(self, state, sums):
        gradients, total, weight, tokens = sums
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        updates, opt_state = self._optimizer.update(gradients, state.opt_state, state.factors)
        factors = optax.apply_updates(state.factors, updates)
        metrics = {"loss": total / weight, "weight": weight, "tokens": tokens}
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return State(state.step + 1, factors, opt_state), metrics


def state_shardings(
    optimizer: optax.GradientTransformation, factors: PyTree[Any], shardings: PyTree[NamedSharding]
) -> State:
    """Where a state lies: the optimiser's figures of a factor with the factor, single numbers on every device.

    Args:
        optimizer: of what trains.
        factors: or their shapes.
        shardings: theirs.
    """
    whole = NamedSharding(jax.tree.leaves(shardings)[0].mesh, PartitionSpec())
    opt_state = jax.eval_shape(optimizer.init, factors)
    placed = optax.tree_map_params(
        optimizer, lambda _, sharding: sharding, opt_state, shardings, transform_non_params=lambda _: whole
    )
    return State(cast(Any, whole), shardings, placed)


class Judged(NamedTuple):
    """What an evaluation finds: the mean loss, and of each batch what the loss function gave for the metrics."""

    loss: float
    outputs: list[Any]


class Evaluation:
    """Factors judged on batches, without dropout and label smoothing.

    Args:
        forward: the adapted model.
        loss: of a batch.
        place: puts a batch on the devices that it is shared out over.
        whole: "on every device", where results are to be, so that each process can read them.
    """

    def __init__(
        self,
        forward: Forward,
        loss: Loss,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        whole: NamedSharding | None = None,
    ):
        self._place = place
        self._judge = jax.jit(
            lambda base, factors, batch: loss(partial(forward, base, factors), batch, deterministic=True),
            out_shardings=whole,
        )

    def __call__(self, base: PyTree, factors: PyTree[Array], batches: Iterable[Batch]) -> Judged:
        """The batches' summed losses over their summed weights, and their outputs, fetched to the host."""
        judged = [self._judge(base, factors, self._place(batch)) for batch in batches]
        losses, weights, outputs = zip(*jax.device_get(judged), strict=True)
        return Judged(sum(map(float, losses)) / sum(map(float, weights)), list(outputs))
