"""The form of a loss function, and of an evaluation's results: tasks write the losses, training calls them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

Loss = Callable[..., tuple[Float[Array, ""], Float[Array, ""], Any]]
"""`loss(apply, batch, **kwargs)`: the summed loss of a batch, the weight to divide it by, and the outputs that a task's
metrics need of the batch. `apply` is the model, and `kwargs` are its arguments `deterministic` and `rngs`."""


class Evaluated(NamedTuple):
    """The evaluation of a split: the mean loss, and the loss function's outputs of each batch."""

    loss: float
    outputs: list[Any]
