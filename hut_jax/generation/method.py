"""The protocol of a decoding method, and its result."""

from dataclasses import dataclass
from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int

from hut_jax.generation.constraints import Constraints
from hut_jax.generation.model_steps import Prompts


@dataclass(frozen=True)
class Continuation:
    """The continuation of a prompt.

    Attributes:
        tokens: the new tokens, without the end token. A continuation of `max_new_tokens` tokens was cut off.
        score: the score of beam search (`Beam`); None for other methods.
        others: the other continuations that beam search finished, at most `beams - 1`, the best first.
    """

    tokens: list[int]
    score: float | None = None
    others: tuple["Continuation", ...] = ()


class State(Protocol):
    """The continuations of a batch of prompts between two steps. Each prompt has one for each beam."""

    @property
    def tokens(self) -> Int[Array, "batch beams"]:
        """The last token of each beam, which the model reads next."""

    @property
    def open(self) -> Bool[Array, " batch"]:
        """Whether a prompt's continuation has not ended yet."""


class Method(Protocol):
    """A way to choose tokens: `Beam`, `Greedy` or `Sampling`. It is hashable, since programs are compiled for it."""

    @property
    def beams(self) -> int:
        """The number of continuations of a prompt that are kept at each step."""

    def check(self, config: Any, constraints: Constraints) -> None:
        """Check the method against the model's config and the constraints.

        Raises:
            UserError: they do not fit.
        """

    def start(self, constraints: Constraints, prompts: Prompts, seed: Int[Array, ""]) -> State:
        """The state before the first token, with one beam."""

    def choose(
        self, constraints: Constraints, logits: Float[Array, "batch beams vocab"], state: Any, step: Int[Array, ""]
    ) -> tuple[State, Int[Array, "batch beams"] | None]:
        """Choose each beam's next token.

        Returns:
            The next state, and the old beam that each new beam continues. None: each beam continues itself.
        """

    def result(self, constraints: Constraints, state: Any) -> Any:
        """The result that leaves the device: a tree of arrays, each with the batch as its first axis."""

    def read(self, constraints: Constraints, result: Any) -> Continuation | None:
        """The continuation in one prompt's part of the result; None if the method found none."""
