"""Batches of few shapes from prompts of any length."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.generation.model_steps import Prompts


def check_prompts(config: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Check that the model can read and continue every prompt.

    Args:
        config: the model's.
        prompts: token ids.
        max_new_tokens: the most tokens that follow a prompt.

    Raises:
        UserError: a prompt is empty or too long, or has a token outside the vocabulary.
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
        change = getattr(config, "frequencies_change_at", None)
        if change is not None and len(prompt) <= change < len(prompt) + max_new_tokens:
            raise UserError(
                f"{which} has {len(prompt)} tokens; with {max_new_tokens} new ones it passes {change}, where the "
                "frequencies of the model's rotary positions change, and keys in the cache would keep the old ones; "
                "ask for fewer new tokens"
            )
        wrong = next((token for token in prompt if not 0 <= token < config.vocab_size), None)
        if wrong is not None:
            raise UserError(f"{which} has token id {wrong}, outside 0..{config.vocab_size - 1}")


def in_batches(
    decode: Callable[[Prompts], Any],
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    length_multiple: int,
    longest: int,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Any]:
    """The result of `decode` for each prompt, in the order of the prompts.

    A batch has prompts of similar lengths. Empty rows fill the last batch, so that it has the shape of the others.

    Args:
        decode: from a batch to a tree of arrays, each with the batch as its first axis.
        prompts: token ids.
        batch_size: rows of a batch; fewer if there are fewer prompts.
        length_multiple: prompts are padded to a multiple of this, so that few lengths are compiled.
        longest: prompts are padded to this length at most.
        sharding: the sharding of the batch's first axis over devices.
        progress: called after each batch with the number of prompts in it.

    Raises:
        UserError: a number is below 1, or the batch size is not a multiple of the number of devices.
    """
    for name, value in (("batch_size", batch_size), ("length_multiple", length_multiple)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
    devices = sharding.num_devices if sharding else 1
    if batch_size % devices:
        raise UserError(f"batch_size {batch_size} is not a multiple of the {devices} devices it is spread over")
    rows = min(batch_size, max(1, -(-len(prompts) // devices)) * devices)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    results: dict[int, Any] = {}
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        together = [prompts[index] for index in indices]
        length = min(-(-max(map(len, together)) // length_multiple) * length_multiple, longest)
        batch = _batch(together, indices, rows, length)
        out = jax.device_get(decode(jax.device_put(batch, sharding) if sharding else batch))
        for row, index in enumerate(indices):
            results[index] = jax.tree.map(lambda leaf, row=row: leaf[row], out)
        if progress:
            progress(len(indices))
    return [results[index] for index in range(len(prompts))]


def _batch(prompts: Sequence[Sequence[int]], indices: Sequence[int], rows: int, length: int) -> Prompts:
    batch = Prompts(np.zeros((rows, length), np.int32), np.ones(rows, np.int32), np.full(rows, -1, np.int32))
    for row, (prompt, index) in enumerate(zip(prompts, indices, strict=True)):
        batch.tokens[row, : len(prompt)] = prompt
        batch.lengths[row] = len(prompt)
        batch.indices[row] = index
    return batch
