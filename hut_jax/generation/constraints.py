"""The constraints on every decoding method: the lengths, the end tokens, and the n-grams that may not repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.models.shapes import HostOrDevice

_NO_TOKEN = np.iinfo(np.int32).max  # outside any vocabulary, so that a scatter drops it; -1 would be the last token


@dataclass(frozen=True)
class Constraints:
    """The constraints on every decoding method.

    Attributes:
        max_new_tokens: the most tokens of a continuation, including its end token.
        eos_id: the token or tokens that end a continuation; None: there is no end token.
        min_new_tokens: the fewest tokens before an end token.
        no_repeat_ngram: the size of the n-grams that may not repeat in a continuation; 0: all may repeat.
        ngrams_see_prompt: whether the n-grams of the prompt count too, as they do in transformers' `generate`.
        never: tokens that never come, such as the ids that pad a model's vocabulary and are no tokens.

    Raises:
        UserError: a number is out of range.
    """

    max_new_tokens: int
    eos_id: int | Sequence[int] | None
    min_new_tokens: int = 0
    no_repeat_ngram: int = 0
    ngrams_see_prompt: bool = False
    never: Sequence[int] = ()

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise UserError(
                f"min_new_tokens must be at least 0 and at most max_new_tokens, {self.max_new_tokens}, "
                f"not {self.min_new_tokens}"
            )
        if self.no_repeat_ngram < 0:
            raise UserError(f"no_repeat_ngram must be at least 1, or 0 for none, not {self.no_repeat_ngram}")
        # As tuples of different tokens, so that the constraints can be hashed and compared.
        ends = () if self.eos_id is None else tuple(sorted(set(np.atleast_1d(self.eos_id).tolist())))
        object.__setattr__(self, "eos_id", ends)
        object.__setattr__(self, "never", tuple(sorted(set(self.never))))

    @property
    def ends(self) -> tuple[int, ...]:
        """The end tokens, each once."""
        return cast(tuple[int, ...], self.eos_id)

    def check(self, config: Any) -> None:
        """Check the end tokens against the model's config.

        Raises:
            UserError: an end token is outside the vocabulary.
        """
        for end in self.ends:
            if not 0 <= end < config.vocab_size:
                raise UserError(
                    f"end token {end} is outside the vocabulary, 0..{config.vocab_size - 1}; leave it out of eos_id, "
                    "or give None to write max_new_tokens tokens"
                )

    def is_end(self, tokens: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Whether each is an end token."""
        return jnp.isin(tokens, jnp.array(self.ends, jnp.int32))

    def history(
        self, prompts: Int[HostOrDevice, "batch length"], lengths: Int[HostOrDevice, " batch"]
    ) -> Int[Array, "batch history"]:
        """The initial history: the prompts, right-aligned, if their n-grams count; then zeros for the new tokens."""
        batch, length = prompts.shape
        seen = jnp.zeros((batch, 0), jnp.int32)
        if self.ngrams_see_prompt:
            index = jnp.arange(length) - (length - lengths[:, None])
            seen = jnp.where(index < 0, _NO_TOKEN, jnp.take_along_axis(prompts, index, axis=1))
        return jnp.concatenate([seen, jnp.zeros((batch, self.max_new_tokens), jnp.int32)], axis=1)

    def new(self, history: Int[Array, "*batch history"]) -> Int[Array, "*batch steps"]:
        """The new tokens of a history."""
        return history[..., history.shape[-1] - self.max_new_tokens :]

    def write(self, history: Int[Array, "*batch history"], step: Any, tokens: Int[Array, "*batch"]) -> Array:
        """The history with the tokens of this step."""
        index = history.shape[-1] - self.max_new_tokens + step
        return jax.lax.dynamic_update_slice_in_dim(history, tokens[..., None], index, history.ndim - 1)

    def forbid(
        self, scores: Float[Array, "*batch vocab"], history: Int[Array, "*batch history"], step: Any
    ) -> Float[Array, "*batch vocab"]:
        """The scores, with minus infinity for the tokens that may not come next.

        Args:
            scores: of the next token, such as logits.
            history: the earlier tokens.
            step: the number of new tokens in the history.
        """
        if self.never:
            scores = scores.at[..., np.array(self.never)].set(-jnp.inf, mode="drop")
        if self.no_repeat_ngram:
            seen = history.shape[-1] - self.max_new_tokens + step
            scores = _forbid(scores, _repeats(history, seen, self.no_repeat_ngram))
        if self.min_new_tokens and self.ends:
            ends = jnp.array(self.ends, jnp.int32)
            ends = jnp.where(step < self.min_new_tokens, ends, _NO_TOKEN)
            scores = _forbid(scores, jnp.broadcast_to(ends, (*scores.shape[:-1], len(self.ends))))
        return scores

    def until_end(self, tokens: Int[HostOrDevice, " steps"] | Sequence[int]) -> list[int]:
        """The tokens before the first end token."""
        new: list[int] = np.asarray(tokens).tolist()
        return next((new[:i] for i, token in enumerate(new) if token in self.ends), new)


def _forbid(scores: Array, tokens: Array) -> Array:
    """The scores, with minus infinity at these tokens."""
    rows = scores.reshape(-1, scores.shape[-1])
    tokens = tokens.reshape(len(rows), -1)
    return rows.at[jnp.arange(len(rows))[:, None], tokens].set(-jnp.inf, mode="drop").reshape(scores.shape)


def _repeats(history: Array, seen: Any, size: int) -> Array:
    """The token, if any, that would now repeat the n-gram at each index of the history.

    Args:
        history: tokens, on the last axis.
        seen: the number of tokens written so far.
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
