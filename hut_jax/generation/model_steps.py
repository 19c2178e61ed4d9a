"""The two model calls of decoding: one for whole prompts, and one for the next token of each beam."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from hut_jax.models.beam_cache import BeamCache
from hut_jax.models.shapes import HostOrDevice


class Prompts(NamedTuple):
    """A batch of prompts, with padding after each."""

    tokens: Int[HostOrDevice, "batch length"]
    lengths: Int[HostOrDevice, " batch"]
    indices: Int[HostOrDevice, " batch"]  # each prompt's index among all prompts; -1 for an empty row

    @property
    def mask(self):
        """True where there is a token."""
        return jnp.arange(self.tokens.shape[1]) < self.lengths[:, None]


def plain(model: Any) -> Callable:
    """The model's own `apply`, with the parameters as the first argument."""
    return lambda params, *args, **kwargs: model.apply({"params": params}, *args, **kwargs)


def read_prompts(
    model: Any, apply: Callable, params: Any, prompts: Prompts, beams: int, steps: int
) -> tuple[Float[Array, "batch vocab"], BeamCache]:
    """The logits of each prompt's next token, and a cache for its beams."""
    batch, length = prompts.tokens.shape
    last = jnp.arange(batch) * length + prompts.lengths - 1
    # The positions end where the prompt does: rotary positions may depend on the length.
    positions = jnp.minimum(jnp.arange(length), prompts.lengths[:, None] - 1)
    cache = model.init_cache(batch, length)
    logits, cache = apply(params, prompts.tokens, position_ids=positions, cache=cache, logits_at=last)
    return logits, BeamCache.after_prompts(cache, beams, steps)


def next_logits(
    apply: Callable, params: Any, prompts: Prompts, tokens: Int[Array, "batch beams"], cache: BeamCache
) -> tuple[Float[Array, "batch beams vocab"], BeamCache]:
    """The logits after each beam's token, and the cache with that token."""
    positions = (prompts.lengths + cache.index)[:, None]
    return apply(params, tokens, prompts.mask, position_ids=jnp.broadcast_to(positions, tokens.shape), cache=cache)


def on_each_device(sharding: NamedSharding | None, decode: Callable, *args: Any) -> Any:
    """`decode(*args)`, on each device for its own part of the last argument.

    The devices do not communicate, and each stops when its own prompts have ended. Without this function XLA would
    gather all logits on all devices at every step, since it does not split a sort.
    """
    if sharding is None:
        return decode(*args)
    specs = (*(PartitionSpec(),) * (len(args) - 1), sharding.spec)
    # check_vma: loops carry values that are the same on all devices at first, and then differ.
    on_each = jax.shard_map(decode, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, check_vma=False)
    return on_each(*args)
