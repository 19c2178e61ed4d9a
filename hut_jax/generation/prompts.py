"""Prompts of any lengths as batches of few shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.generation.model_steps import Prompts

_BUCKET = 16  # prompts are padded to a multiple of this, so that few lengths are compiled


def check_prompts(config: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Make sure that the model can read and continue every prompt.

    Args:
        config: the model's.
        prompts: token ids.
        max_new_tokens: how many more there may be.

    Raises:
        UserError: a prompt is empty or too long, or has a token that is not in the vocabulary.
    """
    for number, prompt in enumerate(prompts, start=1):
        which = f"prompt {number} of {len(prompts)}"
        if not len(prompt):
            raise UserError(f"{which} is empty: there is nothing to continue")
        if len(prompt) + max_new_tokens > config.n_positions:
            raise UserError(
                f"{which} has {len(prompt)} tokens; with {max_new_tokens} new ones that is above the model's "
                f"n_positions {config.n_positions}"
            )
        wrong = next((token for token in prompt if not 0 <= token < config.vocab_size), None)
        if wrong is not None:
            raise UserError(f"{which} has token id {wrong}, outside 0..{config.vocab_size - 1}")


def in_batches(
    decode: Callable[[Prompts], Any],
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    longest: int,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Any]:
    """What `decode` makes of each prompt, in the order of the prompts.

    Prompts of like lengths go together; the last batch is filled up, so that it is no shape of its own.

    Args:
        decode: from a batch to a tree of arrays, each with the batch as its first axis.
        prompts: token ids.
        batch_size: rows of a batch, where there are as many prompts.
        longest: the most tokens that a prompt may be padded to.
        sharding: of the batch's first axis over devices.
        progress: told after each batch how many prompts it did.

    Raises:
        UserError: the batch size is below 1, or no multiple of the devices.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    devices = sharding.num_devices if sharding else 1
    if batch_size % devices:
        raise UserError(f"batch_size {batch_size} is no multiple of the {devices} devices it is spread over")
    rows = min(batch_size, max(1, -(-len(prompts) // devices)) * devices)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    results: dict[int, Any] = {}
    for start in range(0, len(order), rows):
        numbers = order[start : start + rows]
        batch = _batch([prompts[number] for number in numbers], numbers, rows, longest)
        out = jax.device_get(decode(jax.device_put(batch, sharding) if sharding else batch))
        for row, number in enumerate(numbers):
            results[number] = jax.tree.map(lambda leaf, row=row: leaf[row], out)
        if progress:
            progress(len(numbers))
    return [results[number] for number in range(len(prompts))]


def _batch(prompts: Sequence[Sequence[int]], numbers: Sequence[int], rows: int, longest: int) -> Prompts:
    length = min(-(-max(map(len, prompts)) // _BUCKET) * _BUCKET, longest)
    batch = Prompts(np.zeros((rows, length), np.int32), np.ones(rows, np.int32), np.full(rows, -1, np.int32))
    for row, (prompt, number) in enumerate(zip(prompts, numbers, strict=True)):
        batch.tokens[row, : len(prompt)] = prompt
        batch.lengths[row] = len(prompt)
        batch.numbers[row] = number
    return batch
