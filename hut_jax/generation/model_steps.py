"""The two calls of a model that decoding is made of: read the prompts, then one token of each branch at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hut_jax.models.branches import Branches, branch
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
) -> tuple[Float[Array, "batch vocab"], Branches]:
    """The logits of each prompt's next token, and branches that go on from there."""
    batch, length = prompts.tokens.shape
    last = jnp.arange(batch) * length + prompts.lengths - 1
    logits, cache = apply(params, prompts.tokens, cache=model.init_cache(batch, length), logits_at=last)
    return logits, branch(cache, branches, steps)


def next_logits(
    apply: Callable, params: Any, prompts: Prompts, tokens: Int[Array, "batch branches"], cache: Branches
) -> tuple[Float[Array, "batch branches vocab"], Branches]:
    """Each branch takes its token; the logits of the one after it."""
    positions = (prompts.lengths + cache.index)[:, None]
    return apply(params, tokens, prompts.mask, position_ids=jnp.broadcast_to(positions, tokens.shape), cache=cache)
