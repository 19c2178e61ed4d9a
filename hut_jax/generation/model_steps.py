"""The two ways in which decoding calls a model: for all prompts, then for one token of each beam at a time."""

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
    numbers: Int[HostOrDevice, " batch"]  # the index of each among all prompts; -1 for a row that only fills the batch

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
    logits, cache = apply(params, prompts.tokens, cache=model.init_cache(batch, length), logits_at=last)
    return logits, BeamCache.after_prompts(cache, beams, steps)


def next_logits(
    apply: Callable, params: Any, prompts: Prompts, tokens: Int[Array, "batch beams"], cache: BeamCache
) -> tuple[Float[Array, "batch beams vocab"], BeamCache]:
    """The logits after each beam's token, and the cache with that token."""
    positions = (prompts.lengths + cache.index)[:, None]
    return apply(params, tokens, prompts.mask, position_ids=jnp.broadcast_to(positions, tokens.shape), cache=cache)


def on_each_device(sharding: NamedSharding | None, decode: Callable, *args: Any) -> Any:
    """`decode(*args)`, on each device for its own part of the last argument.

    Devices send each other nothing, and each stops when its own prompts have ended. Without this, XLA gathers all
    logits on all devices at every step, since it does not split a sort.
    """
    if sharding is None:
        return decode(*args)
    specs = (*(PartitionSpec(),) * (len(args) - 1), sharding.spec)
    # check_vma: loops carry values that are the same on all devices at first, and then differ.
    on_each = jax.shard_map(decode, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, check_vma=False)
    return on_each(*args)
