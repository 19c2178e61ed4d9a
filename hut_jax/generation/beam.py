"""Beam search: the likeliest continuations found by keeping the best few of each length.

The search follows the rules of transformers' `generate`, so that the same options give the same tokens:

- Each step takes the best `(1 + ends) * beams` candidates. Candidates that end, or reach the maximum length, are
  finished if they are among the best `beams`. The best `beams` of the other candidates live on.
- The `beams` finished continuations with the best scores are kept.
- With `early_stopping=True` a prompt is closed once it has `beams` finished continuations. Otherwise it is closed once
  its best living beam no longer beats the worst finished continuation. The beam's score is computed at its current
  length, or with "never" at the most favourable length.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.generation.constraints import Constraints
from hut_jax.generation.method import Continuation
from hut_jax.generation.model_steps import Prompts
from hut_jax.generation.top_k import grouped_top_k

_LARGEST_EXPONENT = 75.0  # fp32 holds a log-probability times or divided by e to this power


class _Finished(NamedTuple):
    tokens: Int[Array, "batch beams steps"]
    scores: Float[Array, "batch beams"]  # the best first; minus infinity where there is none yet


class _State(NamedTuple):
    """The living beams: one after the prompt, and `beams` from the first step on."""

    tokens: Int[Array, "batch beams"]
    history: Int[Array, "batch beams history"]
    log_probabilities: Float[Array, "batch beams"]  # the best first; minus infinity for a beam that is none
    finished: _Finished
    open: Bool[Array, " batch"]


@dataclass(frozen=True)
class Beam:
    """Beam search. The score of a continuation is its log-probability divided by a power of its length.

    The log-probability includes the end token.

    Attributes:
        beams: the number of continuations of a prompt that are kept at each step.
        length_penalty: the exponent of the length. Values above 0 favour longer continuations. With 0 the score is
            the log-probability.
        early_stopping: when the search ends. True: at the first `beams` finished continuations. False: when the
            living beams are unlikely to win. "never": when they cannot win.

    Raises:
        UserError: an option is out of range.
    """

    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self):
        if self.beams < 1:
            raise UserError(f"beams must be at least 1, not {self.beams}")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty must be finite, not {self.length_penalty}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise UserError(f"early_stopping must be True, False or 'never', not {self.early_stopping!r}")

    def check(self, config: Any, constraints: Constraints) -> None:
        """See `Method`."""
        if self.beams > config.vocab_size:
            raise UserError(f"{self.beams} beams are more than the vocabulary has tokens, {config.vocab_size}")
        self.check_length(constraints.max_new_tokens)

    def check_length(self, max_new_tokens: int) -> None:
        """Check that the longest continuation can be scored.

        Raises:
            UserError: its length to the power of the length penalty is out of float32's range.
        """
        most = _LARGEST_EXPONENT / math.log(max(2, max_new_tokens))
        if abs(self.length_penalty) > most:
            raise UserError(
                f"length_penalty {self.length_penalty}: {max_new_tokens} tokens to that power are out of "
                f"fp32's range; give a length_penalty between {-most:.1f} and {most:.1f}"
            )

    def start(self, constraints: Constraints, prompts: Prompts, seed: Int[Array, ""]) -> _State:
        """See `Method`."""
        history = constraints.history(prompts.tokens, prompts.lengths)[:, None]
        batch = len(history)
        finished = _Finished(
            jnp.zeros((batch, self.beams, constraints.max_new_tokens), jnp.int32),
            jnp.full((batch, self.beams), -jnp.inf),
        )
        tokens, log_probabilities = jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1))
        return _State(tokens, history, log_probabilities, finished, jnp.asarray(prompts.indices >= 0))

    def choose(
        self, constraints: Constraints, logits: Float[Array, "batch beams vocab"], state: _State, step: Int[Array, ""]
    ) -> tuple[_State, Int[Array, "batch beams"]]:
        """See `Method`."""
        candidates, parents, tokens = self._best_candidates(constraints, logits, state, step)
        history = jnp.take_along_axis(state.history, parents[..., None], axis=1)
        history = constraints.write(history, step, tokens)
        length = step + 1
        ends = constraints.is_end(tokens) | (length == constraints.max_new_tokens)

        # A candidate that ends now is finished if it is good enough and its prompt is still open.
        counts = ends & (jnp.arange(candidates.shape[1]) < self.beams) & state.open[:, None]
        scores = jnp.where(counts, self._score(candidates, length), -jnp.inf)
        scores = jnp.concatenate([state.finished.scores, scores], axis=1)
        scores, kept = jax.lax.top_k(scores, self.beams)
        sequences = jnp.concatenate([state.finished.tokens, constraints.new(history)], axis=1)
        finished = _Finished(jnp.take_along_axis(sequences, kept[..., None], axis=1), scores)

        # The best of the other candidates live on.
        best, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates), self.beams)
        living = (
            jnp.take_along_axis(tokens, kept, axis=1),
            jnp.take_along_axis(history, kept[..., None], axis=1),
            best,
        )

        worst = finished.scores[:, -1]
        if self.early_stopping is True:
            hopeful = worst == -jnp.inf
        else:
            favourable = self.early_stopping == "never" and self.length_penalty > 0
            hopeful = self._score(best[:, 0], constraints.max_new_tokens if favourable else length) > worst
        return _State(*living, finished, state.open & hopeful), jnp.take_along_axis(parents, kept, axis=1)

    def result(self, constraints: Constraints, state: _State) -> _Finished:
        """See `Method`."""
        return state.finished

    def read(self, constraints: Constraints, result: _Finished) -> Continuation | None:
        """See `Method`."""
        found = [
            Continuation(constraints.until_end(tokens), float(score))
            for tokens, score in zip(result.tokens, result.scores, strict=True)
            if score > -math.inf
        ]
        return Continuation(found[0].tokens, found[0].score, tuple(found[1:])) if found else None

    def _score(self, log_probability: Float[Array, "..."], length: Any) -> Float[Array, "..."]:
        return log_probability / jnp.asarray(length, jnp.float32) ** self.length_penalty

    def _best_candidates(
        self, constraints: Constraints, logits: Float[Array, "batch beams vocab"], state: _State, step: Int[Array, ""]
    ) -> tuple[Float[Array, "batch wanted"], Int[Array, "batch wanted"], Int[Array, "batch wanted"]]:
        """The best continuations by one token: their log-probabilities, the beams they continue, and the tokens.

        The best tokens of each beam are found first, so that the vocabularies of all beams need not be sorted together.
        """
        batch, beams, vocab = logits.shape
        wanted = (1 + max(1, len(constraints.ends))) * self.beams
        normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        allowed = constraints.forbid(logits, state.history, step)
        best, tokens = grouped_top_k(allowed, min(wanted, vocab))
        scores = (best - normalizer + state.log_probabilities[..., None]).reshape(batch, -1)
        # After the prompt, a small vocabulary may give fewer candidates than are wanted.
        scores = jnp.pad(scores, ((0, 0), (0, max(0, wanted - scores.shape[1]))), constant_values=-jnp.inf)
        candidates, indices = jax.lax.top_k(scores, wanted)
        indices = jnp.minimum(indices, beams * tokens.shape[2] - 1)
        tokens = jnp.take_along_axis(tokens.reshape(batch, -1), indices, axis=1)
        return candidates, indices // best.shape[2], tokens.astype(jnp.int32)
