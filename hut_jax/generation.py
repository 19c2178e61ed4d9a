"""Greedy generation over a KV cache."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hut_jax.errors import UserError

_BUCKET = 32  # prompts are padded to a multiple of this, so that few lengths are compiled


def greedy(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None,
    apply: Callable | None = None,
) -> list[list[int]]:
    """Continues each prompt with the likeliest token, again and again, all prompts as one batch.

    Compiled once for a number of prompts, a padded length, a `max_new_tokens` and an `apply`: pass the same
    function each time, not a new lambda.

    Args:
        model: a causal model with `init_cache`, such as `GPT2`.
        params: what `apply` takes first.
        prompts: token ids, of any lengths.
        max_new_tokens: how many tokens a continuation may have.
        eos_id: the token, or the tokens, that end a continuation. None: nothing does.
        apply: called as `apply(params, input_ids, attention_mask, position_ids=, cache=, logits_at=)`; an
            adapted model's goes here. Default: `model.apply({"params": params}, ...)`.

    Returns:
        For each prompt its continuation, without the prompt and without the end token. One that is
        `max_new_tokens` long was cut off.

    Raises:
        UserError: an empty prompt, a token id that is not in the vocabulary, `max_new_tokens` below 1, or a
            prompt that with its continuation would be longer than n_positions.
    """
    if not prompts:
        return []
    _check(model.config, prompts, max_new_tokens)
    ends = () if eos_id is None else tuple(np.atleast_1d(eos_id).tolist())
    longest = max(map(len, prompts))
    length = min(-(-longest // _BUCKET) * _BUCKET, model.config.n_positions - max_new_tokens)
    tokens = np.zeros((len(prompts), length), np.int32)
    mask = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = True
    new = np.asarray(_generate(model, apply, max_new_tokens, ends, params, tokens, mask))
    return [_until(row.tolist(), ends) for row in new]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate(model, apply, most, ends, params, tokens, mask):
    """The new tokens, `[batch, most]`; what stands after an end token means nothing."""
    apply = apply or (lambda params, *args, **kwargs: model.apply({"params": params}, *args, **kwargs))
    batch, length = tokens.shape
    # Causality hides the cache's places yet to be written; what the mask must hide is the padding.
    mask = jnp.concatenate([mask, jnp.ones((batch, most), bool)], axis=1)
    positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    is_end = functools.partial(jnp.isin, test_elements=jnp.array(ends, jnp.int32))

    def step(inputs, position_ids, cache):
        last = jnp.arange(1, batch + 1) * inputs.shape[1] - 1
        logits, cache = apply(params, inputs, mask, position_ids=position_ids, cache=cache, logits_at=last)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), cache

    def going_on(state):
        count, _, _, ended, _ = state
        return (count < most) & ~jnp.all(ended)

    def advance(state):
        count, current, new, ended, cache = state
        here = jax.lax.dynamic_slice_in_dim(positions, length + count - 1, 1, axis=1)
        current, cache = step(current[:, None], here, cache)
        return count + 1, current, new.at[:, count].set(current), ended | is_end(current), cache

    first, cache = step(tokens, positions[:, :length], model.init_cache(batch, length + most))
    new = jnp.zeros((batch, most), jnp.int32).at[:, 0].set(first)
    return jax.lax.while_loop(going_on, advance, (1, first, new, is_end(first), cache))[2]


def _until(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    return next((tokens[:i] for i, token in enumerate(tokens) if token in ends), tokens)


def _check(config: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {number} (counting from 0) is empty: there is nothing to continue")
        if len(prompt) + max_new_tokens > config.n_positions:
            raise UserError(
                f"prompt {number} (counting from 0) has {len(prompt)} tokens; with {max_new_tokens} new ones that is "
                f"above the model's n_positions {config.n_positions}"
            )
        wrong = next((token for token in prompt if not 0 <= token < config.vocab_size), None)
        if wrong is not None:
            raise UserError(
                f"prompt {number} (counting from 0) has token id {wrong}, outside 0..{config.vocab_size - 1}"
            )
