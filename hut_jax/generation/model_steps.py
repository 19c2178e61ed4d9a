"""The two calls of a model that decoding is made of: read the prompts, then one token of each branch at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from hut_jax.models.beam_cache import BeamCache
from hut_jax.models.layers import HostOrDevice


class Prompts(NamedTuple):
    """A batch of prompts; padding stands after them."""

    tokens: Int[HostOrDevice, "batch length"]
    lengths: Int[HostOrDevice, " batch"]
    numbers: Int[HostOrDevice, " batch"]  # which one each is, of all; -1 for a row that only fills the batch

    @property
    def mask(self):
        """True where there is a token."""
        return jnp.arange(self.tokens.shape[1]) < self.lengths[:, None]


def plain(model: Any) -> Callable:
    """The model's own `apply`, with its parameters as the first argument."""
    return lambda params, *args, **kwargs: model.apply({"params": params}, *args, **kwargs)


def read_prompts(
    model: Any, apply: Callable, params: Any, prompts: Prompts, branches: int, steps: int
) -> tuple[Float[Array, "batch vocab"], BeamCache]:
    """The logits of each prompt's next token, and branches that go on from there."""
    batch, length = prompts.tokens.shape
    last = jnp.arange(batch) * length + prompts.lengths - 1
    logits, cache = apply(params, prompts.tokens, cache=model.init_cache(batch, length), logits_at=last)
    return logits, BeamCache.after_prompts(cache, branches, steps)


def next_logits(
    apply: Callable, params: Any, prompts: Prompts, tokens: Int[Array, "batch branches"], cache: BeamCache
) -> tuple[Float[Array, "batch branches vocab"], BeamCache]:
    """Each branch takes its token; the logits of the one after it."""
    positions = (prompts.lengths + cache.index)[:, None]
    return apply(params, tokens, prompts.mask, position_ids=jnp.broadcast_to(positions, tokens.shape), cache=cache)


def on_each_device(sharding: NamedSharding | None, decode: Callable, *args: Any) -> Any:
    """`decode(*args)`, by each device for its own prompts, which are the last argument.

    Nothing is sent between devices, and each ends when its own rows have. Left to itself XLA gathers all logits on all
    devices at every step, since it does not split a sort.
    """
    if sharding is None:
        return decode(*args)
    specs = (*(PartitionSpec(),) * (len(args) - 1), sharding.spec)
    # Loops start from constants, which no device differs in, and go on to what each finds: hence no check of that.
    on_each = jax.shard_map(decode, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, check_vma=False)
    return on_each(*args)
