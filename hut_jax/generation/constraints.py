"""What every way of decoding obeys: how long a continuation may be, what ends it, which n-grams may not come twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.models.layers import HostOrDevice

_NO_TOKEN = np.iinfo(np.int32).max  # past any vocabulary's end, where a scatter drops it; -1 would be the last token


@dataclass(frozen=True)
class Limits:
    """The options that beam search, greedy and sampling share.

    Attributes:
        max_new_tokens: how many tokens a continuation may have, an end token among them.
        min_new_tokens: before there are so many, no end token may come.
        no_repeat_ngram: no n-gram of this size may come twice in a continuation; 0: any may.
        ngrams_see_prompt: whether the n-grams of the prompt count too, as they do in transformers' `generate`.
        ends: the tokens that end a continuation.
    """

    max_new_tokens: int
    min_new_tokens: int = 0
    no_repeat_ngram: int = 0
    ngrams_see_prompt: bool = False
    ends: tuple[int, ...] = ()

    def check(self, config: Any) -> None:
        """Make sure that the options fit each other and the model.

        Args:
            config: the model's.

        Raises:
            UserError: one is out of its range.
        """
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise UserError(
                f"min_new_tokens must be at least 0 and at most max_new_tokens, {self.max_new_tokens}, "
                f"not {self.min_new_tokens}"
            )
        if self.no_repeat_ngram < 0:
            raise UserError(f"no_repeat_ngram must be at least 1, or 0 for none, not {self.no_repeat_ngram}")
        for end in self.ends:
            if not 0 <= end < config.vocab_size:
                raise UserError(f"end token {end} is outside the vocabulary, 0..{config.vocab_size - 1}")

    def is_end(self, tokens: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Whether each is an end token."""
        return jnp.isin(tokens, jnp.array(self.ends, jnp.int32))

    def history(
        self, prompts: Int[HostOrDevice, "batch length"], lengths: Int[HostOrDevice, " batch"]
    ) -> Int[Array, "batch history"]:
        """Room for the new tokens, at the end; before them the prompts, moved next to it, if their n-grams count."""
        batch, length = prompts.shape
        seen = jnp.zeros((batch, 0), jnp.int32)
        if self.ngrams_see_prompt:
            place = jnp.arange(length) - (length - lengths[:, None])
            seen = jnp.where(place < 0, _NO_TOKEN, jnp.take_along_axis(prompts, place, axis=1))
        return jnp.concatenate([seen, jnp.zeros((batch, self.max_new_tokens), jnp.int32)], axis=1)

    def new(self, history: Int[Array, "*batch history"]) -> Int[Array, "*batch steps"]:
        """The part of a history that is not prompt."""
        return history[..., history.shape[-1] - self.max_new_tokens :]

    def write(self, history: Int[Array, "*batch history"], step: Any, tokens: Int[Array, "*batch"]) -> Array:
        """The history with the step's tokens written to it."""
        place = history.shape[-1] - self.max_new_tokens + step
        return jax.lax.dynamic_update_slice_in_dim(history, tokens[..., None], place, history.ndim - 1)

    def forbid(
        self, scores: Float[Array, "*batch vocab"], history: Int[Array, "*batch history"], step: Any
    ) -> Float[Array, "*batch vocab"]:
        """The scores with minus infinity for the tokens that may not come next.

        Args:
            scores: of the next token, such as logits.
            history: what came before.
            step: how many new tokens it has.
        """
        if self.no_repeat_ngram:
            seen = history.shape[-1] - self.max_new_tokens + step
            scores = _forbid(scores, _repeats(history, seen, self.no_repeat_ngram))
        if self.min_new_tokens and self.ends:
            ends = jnp.array(self.ends, jnp.int32)
            ends = jnp.where(step < self.min_new_tokens, ends, _NO_TOKEN)
            scores = _forbid(scores, jnp.broadcast_to(ends, (*scores.shape[:-1], len(self.ends))))
        return scores

    def until_end(self, tokens: Sequence[int] | np.ndarray) -> list[int]:
        """The tokens before the first end token."""
        tokens = [int(token) for token in tokens]
        return next((tokens[:i] for i, token in enumerate(tokens) if token in self.ends), tokens)


def ends_of(eos_id: int | Sequence[int] | None) -> tuple[int, ...]:
    """The end tokens as a tuple, each once."""
    return () if eos_id is None else tuple(sorted(set(np.atleast_1d(eos_id).tolist())))


def _forbid(scores: Array, tokens: Array) -> Array:
    """Minus infinity at the tokens."""
    rows = scores.reshape(-1, scores.shape[-1])
    tokens = tokens.reshape(len(rows), -1)
    return rows.at[jnp.arange(len(rows))[:, None], tokens].set(-jnp.inf, mode="drop").reshape(scores.shape)


def _repeats(history: Array, seen: Any, size: int) -> Array:
    """For each place of the history where an n-gram may begin, the token that would now repeat it, if any.

    Args:
        history: the tokens, on the last axis.
        seen: how many of them are there already.
        size: n.
    """
    starts = history.shape[-1] - size + 1
    if starts < 1:
        return jnp.zeros((*history.shape[:-1], 0), jnp.int32)
    last = jax.lax.dynamic_slice_in_dim(history, seen - size + 1, size - 1, history.ndim - 1)
    same = jnp.arange(starts) + size <= seen
    for i in range(size - 1):
        same = same & (history[..., i : i + starts] == last[..., i : i + 1])
    return jnp.where(same, history[..., size - 1 :], _NO_TOKEN)
