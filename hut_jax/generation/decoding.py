"""Continue prompts: the checks, the batches and the loop that all methods share."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hut_jax.core.compilation import Program
from hut_jax.core.errors import UserError
from hut_jax.core.products import on_matrix_units
from hut_jax.generation.constraints import Constraints
from hut_jax.generation.method import Continuation, Method
from hut_jax.generation.model_steps import Prompts, next_logits, on_each_device, plain, read_prompts
from hut_jax.generation.prompts import check_prompts, in_batches
from hut_jax.generation.sampling import Sampling
from hut_jax.generation.transposed import for_decoding


def generate(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    method: Method,
    constraints: Constraints,
    *,
    apply: Callable | None = None,
    batch_size: int = 16,
    length_multiple: int = 16,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """The best continuation of each prompt that the method finds.

    The program is compiled once for each batch size, padded prompt length, method (the seed does not matter),
    constraints and `apply`. Pass the same function as `apply` each time, not a new lambda.

    Args:
        model: a causal model with `init_cache`, such as `GPT2`.
        params: the first argument of `apply`.
        prompts: token ids, of any lengths.
        method: `Beam`, `Greedy` or `Sampling`.
        constraints: the lengths, end tokens and n-grams that are allowed.
        apply: called as `apply(params, input_ids, attention_mask, position_ids=, cache=, logits_at=)`, for an
            adapted model. Default: `model.apply({"params": params}, ...)`.
        batch_size: the number of prompts decoded together.
        length_multiple: prompts are padded to a multiple of this many tokens; larger values compile fewer lengths.
        sharding: the sharding of a batch's first axis over devices, such as
            `NamedSharding(mesh, PartitionSpec("data"))`.
        progress: called after each batch with the number of prompts in it.

    Raises:
        UserError: a prompt is empty, has a token outside the vocabulary, or is longer than the model's n_positions with
            its continuation; an option does not fit the model or another option; or beam search finds no continuation.
    """
    constraints.check(model.config)
    method.check(model.config, constraints)
    check_prompts(model.config, prompts, constraints.max_new_tokens)
    # The seed is an argument of the program, so that another seed compiles nothing.
    seed = method.seed if isinstance(method, Sampling) else 0
    seedless = replace(method, seed=0) if isinstance(method, Sampling) else method
    decode: Callable[..., Any] = _decode
    if apply is None:
        params = for_decoding(model, params)
    if apply is not None or not on_matrix_units():
        # XLA moves two things out of the loop over tokens: the forming of an adapter's kernels, and the conversion of
        # kernels to fp32, which a CPU without matrix units needs for its products.
        decode = _decode.plain
    results = in_batches(
        functools.partial(decode, model, apply, seedless, constraints, sharding, params, np.uint32(seed)),
        prompts,
        batch_size=batch_size,
        length_multiple=length_multiple,
        longest=model.config.n_positions - constraints.max_new_tokens,
        sharding=sharding,
        progress=progress,
    )
    found = []
    for number, result in enumerate(results, start=1):
        continuation = method.read(constraints, result)
        if continuation is None:
            raise UserError(
                f"prompt {number} of {len(prompts)}: no continuation has a score; are the model's weights finite, "
                "and do the constraints leave any token?"
            )
        found.append(continuation)
    return found


@functools.partial(Program, static_argnums=(0, 1, 2, 3, 4))
def _decode(model, apply, method: Method, constraints: Constraints, sharding, params, seed, prompts: Prompts):
    decode = functools.partial(_continue, model, apply or plain(model), method, constraints)
    return on_each_device(sharding, decode, params, seed, prompts)


def _continue(model, apply, method: Method, constraints: Constraints, params, seed, prompts: Prompts):
    """Read the prompts, then choose one token for each beam at a time, until no prompt is open."""

    def unfinished(carry):
        step, state, _ = carry
        return (step < constraints.max_new_tokens) & jnp.any(state.open)

    def advance(carry):
        step, state, cache = carry
        logits, cache = next_logits(apply, params, prompts, state.tokens, cache)
        state, parents = method.choose(constraints, logits, state, step)
        return step + 1, state, cache if parents is None else cache.reorder(parents)

    def fill_block(carry):
        step, state, cache = jax.lax.while_loop(lambda now: unfinished(now) & ~now[2].full, advance, carry)
        return step, state, cache.close()  # after the last step nothing reads the cache

    logits, cache = read_prompts(model, apply, params, prompts, method.beams, constraints.max_new_tokens)
    state = method.start(constraints, prompts, seed)
    state, _ = method.choose(constraints, logits[:, None], state, jnp.int32(0))
    _, state, _ = jax.lax.while_loop(unfinished, fill_block, (jnp.int32(1), state, cache))
    return method.result(constraints, state)
