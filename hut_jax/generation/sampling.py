"""One continuation a prompt: of the likeliest token each time, or of tokens drawn at random."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.generation.constraints import Limits, ends_of
from hut_jax.generation.model_steps import Prompts, next_logits, on_each_device, plain, read_prompts
from hut_jax.generation.prompts import check_prompts, in_batches

COLDEST = 1e-6
"""The least temperature: logits divided by one near fp32's least number would be no numbers."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: the logits are divided by the temperature, then cut to the top k, then to the top p.

    Attributes:
        temperature: below 1 the likely tokens become likelier.
        top_k: only so many of the likeliest are drawn from; 0: all.
        top_p: only the fewest of the likeliest that together have this probability are drawn from
            (Holtzman et al., arXiv 1904.09751, section 3.1).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self, config: Any) -> None:
        """Make sure that the options are in their ranges.

        Args:
            config: the model's.

        Raises:
            UserError: one is not.
        """
        if not COLDEST <= self.temperature < math.inf:
            raise UserError(
                f"temperature must be at least {COLDEST:g}, not {self.temperature}; greedy is its limit at 0"
            )
        if not 0 <= self.top_k <= config.vocab_size:
            raise UserError(
                f"top_k must be between 1 and the vocabulary, {config.vocab_size}, or 0 for all, not {self.top_k}"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, not {self.top_p}")

    def draw(self, keys: Any, logits: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
        """A token of each row.

        Args:
            keys: a random key a row.
            logits: minus infinity for what may not come.
        """
        draw = jax.vmap(jax.random.categorical)
        logits = logits / self.temperature
        if not self.top_k and self.top_p == 1:
            return draw(keys, logits).astype(jnp.int32)
        logits, tokens = jax.lax.top_k(logits, self.top_k or logits.shape[-1])
        probabilities = jax.nn.softmax(logits)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        drawn = draw(keys, jnp.where(before < self.top_p, logits, -jnp.inf))
        return jnp.take_along_axis(tokens, drawn[:, None], axis=1)[:, 0]


def greedy(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None,
    min_new_tokens: int = 0,
    no_repeat_ngram: int = 0,
    ngrams_see_prompt: bool = False,
    apply: Callable | None = None,
    batch_size: int = 64,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continues each prompt with the likeliest token, again and again.

    Compiled once for a batch size, a padded length, the options, and an `apply`: pass the same function each time,
    not a new lambda.

    Args:
        model: a causal model with `init_cache`, such as `GPT2`.
        params: what `apply` takes first.
        prompts: token ids, of any lengths.
        max_new_tokens: how many tokens a continuation may have, its end token among them.
        eos_id: the token, or the tokens, that end a continuation. None: nothing does.
        min_new_tokens: before there are so many, no end token may come.
        no_repeat_ngram: no n-gram of this size may come twice in a continuation; 0: any may.
        ngrams_see_prompt: whether the prompt's n-grams count too, as in transformers' `generate`.
        apply: called as `apply(params, input_ids, attention_mask, position_ids=, cache=, logits_at=)`; an
            adapted model's goes here. Default: `model.apply({"params": params}, ...)`.
        batch_size: how many prompts are decoded at once.
        sharding: of a batch's first axis over devices, such as `NamedSharding(mesh, PartitionSpec("data"))`.
        progress: told after each batch how many prompts it did.

    Returns:
        For each prompt its continuation, without the prompt and without the end token. One that is
        `max_new_tokens` long was cut off.

    Raises:
        UserError: an empty prompt, a token id that is not in the vocabulary, an option out of its range, or a
            prompt that with its continuation would be longer than n_positions.
    """
    limits = Limits(max_new_tokens, min_new_tokens, no_repeat_ngram, ngrams_see_prompt, ends_of(eos_id))
    return _continue(model, params, prompts, limits, None, 0, apply, batch_size, sharding, progress)


def sample(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None,
    seed: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    no_repeat_ngram: int = 0,
    ngrams_see_prompt: bool = False,
    apply: Callable | None = None,
    batch_size: int = 64,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continues each prompt with tokens drawn from the model's distribution.

    A prompt's random numbers come from the seed, its place among the prompts and the step: whatever the batch size,
    the same seed draws the same tokens.

    Args:
        model: as in `greedy`, and so are the arguments not named here.
        params: what `apply` takes first.
        prompts: token ids, of any lengths.
        max_new_tokens: how many tokens a continuation may have, its end token among them.
        eos_id: the token, or the tokens, that end a continuation. None: nothing does.
        seed: of the random numbers; at least 0 and below 2**32.
        temperature: what the logits are divided by first; see `Sampling`.
        top_k: then only so many of the likeliest are drawn from; 0: all.
        top_p: then only the fewest of the likeliest that together have this probability.
        min_new_tokens: before there are so many, no end token may come.
        no_repeat_ngram: no n-gram of this size may come twice in a continuation; 0: any may.
        ngrams_see_prompt: whether the prompt's n-grams count too.
        apply: of an adapted model.
        batch_size: how many prompts are decoded at once.
        sharding: of a batch's first axis over devices.
        progress: told after each batch how many prompts it did.

    Returns:
        As `greedy`.

    Raises:
        UserError: as `greedy`.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be at least 0 and below 2**32, not {seed}")
    limits = Limits(max_new_tokens, min_new_tokens, no_repeat_ngram, ngrams_see_prompt, ends_of(eos_id))
    sampling = Sampling(temperature, top_k, top_p)
    return _continue(model, params, prompts, limits, sampling, np.uint32(seed), apply, batch_size, sharding, progress)


def _continue(model, params, prompts, limits, sampling, seed, apply, batch_size, sharding, progress):
    limits.check(model.config)
    if sampling:
        sampling.check(model.config)
    check_prompts(model.config, prompts, limits.max_new_tokens)
    new = in_batches(
        functools.partial(_decode, model, apply, limits, sampling, sharding, params, seed),
        prompts,
        batch_size=batch_size,
        longest=model.config.n_positions - limits.max_new_tokens,
        sharding=sharding,
        progress=progress,
    )
    return [limits.until_end(row) for row in new]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _decode(model, apply, limits: Limits, sampling: Sampling | None, sharding, params, seed, prompts: Prompts):
    decode = functools.partial(_continue_each, model, apply, limits, sampling)
    return on_each_device(sharding, decode, params, seed, prompts)


def _continue_each(model, apply, limits: Limits, sampling: Sampling | None, params, seed, prompts: Prompts):
    """The new tokens, `[batch, steps]`; what stands after an end token means nothing."""
    apply = apply or plain(model)
    rows = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), prompts.numbers)

    def choose(logits, history, step):
        logits = limits.forbid(logits, history, step)
        if sampling is None:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return sampling.draw(jax.vmap(jax.random.fold_in, (0, None))(rows, step), logits)

    def going_on(state):
        step, _, _, ended, _ = state
        return (step < limits.max_new_tokens) & ~jnp.all(ended)

    def advance(state):
        step, tokens, history, ended, cache = state
        logits, cache = next_logits(apply, params, prompts, tokens[:, None], cache)
        tokens = choose(logits[:, 0], history, step)
        return step + 1, tokens, limits.write(history, step, tokens), ended | limits.is_end(tokens), cache

    logits, cache = read_prompts(model, apply, params, prompts, 1, limits.max_new_tokens)
    history = limits.history(prompts.tokens, prompts.lengths)
    first = choose(logits, history, 0)
    ended = limits.is_end(first) | (prompts.numbers < 0)
    state = jnp.int32(1), first, limits.write(history, 0, first), ended, cache
    return limits.new(jax.lax.while_loop(going_on, advance, state)[2])
