"""One continuation of each prompt: the likeliest token at each step, or a token drawn at random."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.generation.constraints import Constraints
from hut_jax.generation.method import Continuation
from hut_jax.generation.model_steps import Prompts

COLDEST = 1e-6
"""The lowest temperature: logits divided by a much lower one would not be finite in fp32."""


_NONE = -1
"""Stands for the next token where no token may come, or where a logit is no number."""


class _State(NamedTuple):
    tokens: Int[Array, "batch 1"]
    history: Int[Array, "batch history"]
    open: Bool[Array, " batch"]
    keys: Any  # a random key for each prompt


class _OneBeam(ABC):
    """A method that continues each prompt by the token that `pick` gives."""

    beams = 1

    @abstractmethod
    def pick(self, keys: Any, logits: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
        """A token of each row.

        Args:
            keys: a random key for each row.
            logits: minus infinity for tokens that may not come next.
        """

    def start(self, constraints: Constraints, prompts: Prompts, seed: Int[Array, ""]) -> _State:
        """See `Method`."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), prompts.indices)
        history = constraints.history(prompts.tokens, prompts.lengths)
        return _State(jnp.zeros((len(history), 1), jnp.int32), history, jnp.asarray(prompts.indices >= 0), keys)

    def choose(
        self, constraints: Constraints, logits: Float[Array, "batch 1 vocab"], state: _State, step: Int[Array, ""]
    ) -> tuple[_State, None]:
        """See `Method`."""
        logits = constraints.forbid(logits.squeeze(1), state.history, step)
        tokens = self.pick(jax.vmap(jax.random.fold_in, (0, None))(state.keys, step), logits)
        tokens = jnp.where(jnp.isfinite(logits.max(axis=-1)), tokens, _NONE)
        history = constraints.write(state.history, step, tokens)
        ended = constraints.is_end(tokens) | (tokens == _NONE)
        return _State(tokens[:, None], history, state.open & ~ended, state.keys), None

    def result(self, constraints: Constraints, state: _State) -> Int[Array, "batch steps"]:
        """The new tokens. Tokens after an end token have no meaning."""
        return constraints.new(state.history)

    def read(self, constraints: Constraints, result: Int[Array, " steps"]) -> Continuation | None:
        """See `Method`."""
        tokens = constraints.until_end(result)
        return None if _NONE in tokens else Continuation(tokens)


@dataclass(frozen=True)
class Greedy(_OneBeam):
    """The likeliest token at each step."""

    def check(self, config: Any, constraints: Constraints) -> None:
        """Nothing: no option depends on the model."""

    def pick(self, keys: Any, logits: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
        """The likeliest token of each row."""
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclass(frozen=True)
class Sampling(_OneBeam):
    """A token drawn at each step: the logits are divided by the temperature, then cut to the top k, then to the top p.

    A prompt's random numbers depend on the seed, the prompt's index and the step, and not on the batch size.

    Attributes:
        seed: the seed of the random numbers; at least 0 and below 2**32.
        temperature: the divisor of the logits. Values below 1 make likely tokens likelier.
        top_k: the number of likeliest tokens to draw from; 0: all.
        top_p: draw from the smallest set of likeliest tokens that has this total probability
            (Holtzman et al., arXiv 1904.09751, section 3.1).

    Raises:
        UserError: an option is out of range.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be at least 0 and below 2**32, not {self.seed}")
        if not COLDEST <= self.temperature < math.inf:
            raise UserError(
                f"temperature must be at least {COLDEST:g}, not {self.temperature}; greedy is its limit at 0"
            )
        if self.top_k < 0:
            raise UserError(f"top_k must be at least 1, or 0 for all, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")

    def check(self, config: Any, constraints: Constraints) -> None:
        """See `Method`."""
        if self.top_k > config.vocab_size:
            raise UserError(f"top_k {self.top_k} is more than the vocabulary has tokens, {config.vocab_size}")

    def pick(self, keys: Any, logits: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
        """Draw a token of each row; see `_OneBeam`."""
        draw = jax.vmap(jax.random.categorical)
        logits = logits / self.temperature
        if not self.top_k and self.top_p == 1:
            return draw(keys, logits).astype(jnp.int32)
        logits, tokens = jax.lax.top_k(logits, self.top_k or logits.shape[-1])
        probabilities = jax.nn.softmax(logits)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        drawn = draw(keys, jnp.where(before < self.top_p, logits, -jnp.inf))
        return jnp.take_along_axis(tokens, drawn[:, None], axis=1).squeeze(1)
