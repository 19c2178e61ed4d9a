"""The cache of several continuations of each prompt: the prompt's keys and values are held once for all of them.

A beam that is dropped or doubled moves nothing. What a branch wrote stays where it is, and `origin` says for each
branch which one wrote the token that now is its t-th. Attention multiplies all branches of a row with all keys of that
row, one matrix product, and the mask leaves each branch its own: a few more products than are needed, where to gather
the keys would read and write all of them at every step.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.models.layers import Heads

BLOCK = 16  # steps whose keys are held together; blocks that no branch has reached yet cost nothing

# Either product has its sum next to last: a CPU took up to eight times as long over other orders.
Keys = Float[Array, "*layers batch heads head_width places"]
Values = Float[Array, "*layers batch heads places head_width"]


class BranchMemory(flax.struct.PyTreeNode):
    """One layer's keys and values; with `scan_layers`, all layers' on a leading axis.

    Attributes:
        prompt_keys: of the prompt, once for all branches.
        prompt_values: of the same.
        keys: of what the branches wrote, the step before the branch: place `step * branches + branch`.
        values: of the same. Either is in blocks of `BLOCK` steps, the last of what remains.
    """

    prompt_keys: Keys
    prompt_values: Values
    keys: tuple[Keys, ...]
    values: tuple[Values, ...]

    def attend(
        self, query: Heads, key: Heads, value: Heads, mask: tuple[Array, list[Array]], scale: Any, index: Any
    ) -> tuple[Heads, "BranchMemory"]:
        """Each branch's one new token looks at the prompt, at what its branch wrote before, and at itself.

        Args:
            query: of the new tokens; what is a sequence's length elsewhere are the branches here.
            key: of the same.
            value: of the same.
            mask: from `Branches.mask`.
            scale: what the query-key products are multiplied with.
            index: how many tokens each branch has written before.

        Returns:
            The output, shaped as `query`, and the memory with the new keys and values.
        """
        branches = query.shape[1]
        query, key, value = query.transpose(0, 2, 1, 3), key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
        nothing = jnp.zeros((*query.shape[:3], 1))
        found = _Found(nothing + jnp.finfo(jnp.float32).min, nothing, jnp.zeros(query.shape))
        found = _look(found, query, self.prompt_keys, self.prompt_values, mask[0], scale)
        blocks = []
        for number, (block_keys, block_values) in enumerate(zip(self.keys, self.values, strict=True)):
            steps = block_keys.shape[-1] // branches
            step = index - number * BLOCK
            place = jnp.clip(step, 0, steps - 1) * branches
            here = (step >= 0) & (step < steps)
            block_keys = _write(block_keys, key, place, 3, here)
            block_values = _write(block_values, value, place, 2, here)
            blocks.append((block_keys, block_values))
            arguments = found, query, block_keys, block_values, mask[1][number], scale
            found = _look(*arguments) if number == 0 else jax.lax.cond(step >= 0, _look, _pass, *arguments)
        keys, values = zip(*blocks, strict=True)
        y = (found.values / found.total).astype(value.dtype).transpose(0, 2, 1, 3)
        return y, self.replace(keys=keys, values=values)


class _Found(NamedTuple):
    """Attention to the keys that were looked at so far, a few at a time (Milakov and Gimelshein, arXiv 1805.02867)."""

    largest: Float[Array, "batch heads branches 1"]  # of the scores
    total: Float[Array, "batch heads branches 1"]  # of their exponentials, each over the largest's
    values: Float[Array, "batch heads branches head_width"]  # weighted by these


def _look(found: _Found, query: Array, keys: Array, values: Array, mask: Array, scale: Any) -> _Found:
    """The same, once these keys were looked at too."""
    scores = jnp.einsum("bhid,bhdk->bhik", query, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores * scale, jnp.finfo(jnp.float32).min)
    largest = jnp.maximum(found.largest, scores.max(-1, keepdims=True))
    weights, fade = jnp.exp(scores - largest), jnp.exp(found.largest - largest)
    more = jnp.einsum("bhik,bhkd->bhid", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return _Found(largest, found.total * fade + weights.sum(-1, keepdims=True), found.values * fade + more)


def _pass(found: _Found, *_: Array) -> _Found:
    return found


def _write(old: Array, new: Array, place: Any, axis: int, here: Any) -> Array:
    """The block with new keys or values at the place, where it is this block that they belong to."""
    there = jax.lax.dynamic_slice_in_dim(old, place, new.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(old, jnp.where(here, new, there), place, axis)


class Branches(flax.struct.PyTreeNode):
    """The keys and values of several continuations of each prompt. Every call returns a new one.

    Attributes:
        memory: a tuple of one `BranchMemory` a layer; with `scan_layers` a single one.
        origin: for each branch and step, the branch that wrote the token which is now this branch's.
        index: how many tokens each branch has written.
    """

    memory: Any
    origin: Int[Array, "batch branches steps"]
    index: Any

    def mask(self, prompt_mask: Bool[Array, "batch prompt"]) -> tuple[Array, list[Array]]:
        """What the next token of each branch may look at: of the prompt, and of what the branches wrote."""
        batch, branches, steps = self.origin.shape
        own = self.origin[..., None] == jnp.arange(branches)
        own = (own & (jnp.arange(steps) <= self.index)[:, None]).reshape(batch, 1, branches, steps * branches)
        ends = range(BLOCK * branches, steps * branches, BLOCK * branches)
        return prompt_mask[:, None, None, :], jnp.split(own, list(ends), axis=-1)

    def reorder(self, parents: Int[Array, "batch branches"]) -> "Branches":
        """The branches that go on where `parents` are now; a parent may be taken by several, or by none."""
        written = jnp.arange(self.origin.shape[2]) < self.index
        gathered = jnp.take_along_axis(self.origin, parents[..., None], axis=1)
        return self.replace(origin=jnp.where(written, gathered, self.origin))


def branch(cache: Any, branches: int, steps: int) -> Branches:
    """Branches that go on from a cache which holds prompts, one a row.

    Args:
        cache: of the prompts, as `GPT2` returns it; padding may stand after a prompt.
        branches: how many continuations each prompt has.
        steps: how many tokens a branch may write.
    """

    def one(keys, values):
        prompt_keys, prompt_values = jnp.moveaxis(keys, -3, -1), jnp.moveaxis(values, -3, -2)
        *batch, width, _ = prompt_keys.shape
        sizes = [min(BLOCK, steps - start) for start in range(0, steps, BLOCK)]
        return BranchMemory(
            prompt_keys=prompt_keys,
            prompt_values=prompt_values,
            keys=tuple(jnp.zeros((*batch, width, size * branches), keys.dtype) for size in sizes),
            values=tuple(jnp.zeros((*batch, size * branches, width), keys.dtype) for size in sizes),
        )

    layered = isinstance(cache.keys, tuple)
    memory = tuple(map(one, cache.keys, cache.values)) if layered else one(cache.keys, cache.values)
    batch = jax.tree.leaves(cache.keys)[0].shape[-4]
    origin = jnp.broadcast_to(jnp.arange(branches)[None, :, None], (batch, branches, steps))
    return Branches(memory=memory, origin=origin, index=jnp.zeros((), jnp.int32))
