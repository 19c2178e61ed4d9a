"""The key-value cache of several beams for each prompt. All beams of a prompt share the prompt's keys and values.

A beam search drops some beams and copies others. The keys and values of a token then stay where they were written. For
each beam and step, `origin` records which beam wrote the token.

One matrix product multiplies the queries of all beams of a prompt by the keys of all its beams. A mask then leaves each
beam only its own keys. Some of the products are not needed. The alternative would be to gather each beam's keys. That
would read and write all keys at every step.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.models.shapes import Heads

BLOCK = 16  # steps whose keys are held together; a block that no beam has reached yet is skipped

# Products sum over the last axis but one: on a CPU other orders took up to eight times as long.
BeamKeys = Float[Array, "*layers batch heads head_width tokens"]
BeamValues = Float[Array, "*layers batch heads tokens head_width"]


class LayerBeams(flax.struct.PyTreeNode):
    """One layer's keys and values; with `scan_layers` those of all layers, on a leading axis.

    The tokens of the beams are in blocks of `BLOCK` steps. The last block may be shorter. Within a block a
    token's index is `step * beams + beam`.

    Attributes:
        prompt_keys: of the prompt, shared by all beams.
        prompt_values: of the prompt.
        keys: of the beams' tokens, one array for each block.
        values: of the beams' tokens, likewise.
    """

    prompt_keys: BeamKeys
    prompt_values: BeamValues
    keys: tuple[BeamKeys, ...]
    values: tuple[BeamValues, ...]

    def attend(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        mask: tuple[Array, list[Array]],
        scale: Any,
        index: Any,
        cap: float | None = None,
    ) -> tuple[Heads, "LayerBeams"]:
        """Attention of each beam's new token to the prompt, to the beam's earlier tokens and to itself.

        Args:
            query: of the new tokens; the beams stand on the axis that usually is the sequence's length.
            key: of the new tokens.
            value: of the new tokens.
            mask: from `BeamCache.mask`.
            scale: the factor of the query-key products.
            index: the number of tokens that each beam has written before.
            cap: as in `attention.attend`.

        Returns:
            The output, shaped as `query`, and the cache with the new keys and values.
        """
        batch, beams, heads, width = query.shape
        groups, group = key.shape[2], heads // key.shape[2]
        # The queries of a group of heads meet the same keys, as those of several beams do.
        query = query.reshape(batch, beams, groups, group, width).transpose(0, 2, 3, 1, 4)
        query = query.reshape(batch, groups, group * beams, width)
        own = [jnp.tile(block, (1, 1, group, 1)) if group > 1 else block for block in mask[1]]
        add = functools.partial(_add_keys, cap=cap)
        key, value = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
        nothing = jnp.zeros((*query.shape[:3], 1))
        sums = _Sums(nothing + jnp.finfo(jnp.float32).min, nothing, jnp.zeros(query.shape))
        sums = add(sums, query, self.prompt_keys, self.prompt_values, mask[0], scale)
        blocks = []
        for number, (block_keys, block_values) in enumerate(zip(self.keys, self.values, strict=True)):
            steps = block_keys.shape[-1] // beams
            step = index - number * BLOCK
            start = jnp.clip(step, 0, steps - 1) * beams
            here = (step >= 0) & (step < steps)
            block_keys = _write(block_keys, key, start, 3, here)
            block_values = _write(block_values, value, start, 2, here)
            blocks.append((block_keys, block_values))
            arguments = sums, query, block_keys, block_values, own[number], scale
            sums = add(*arguments) if number == 0 else jax.lax.cond(step >= 0, add, _unchanged, *arguments)
        keys, values = zip(*blocks, strict=True)
        y = (sums.values / sums.total).astype(value.dtype)
        y = y.reshape(batch, groups, group, beams, width).transpose(0, 3, 1, 2, 4).reshape(batch, beams, heads, width)
        return y, self.replace(keys=keys, values=values)


class _Sums(NamedTuple):
    """A softmax over some of the keys, to which more can be added (Milakov and Gimelshein, arXiv 1805.02867)."""

    largest: Float[Array, "batch heads queries 1"]  # score so far
    total: Float[Array, "batch heads queries 1"]  # of exp(score - largest)
    values: Float[Array, "batch heads queries head_width"]  # weighted by exp(score - largest)


def _add_keys(
    sums: _Sums, query: Array, keys: Array, values: Array, mask: Array, scale: Any, *, cap: float | None
) -> _Sums:
    scores = jnp.einsum("bhid,bhdk->bhik", query, keys, preferred_element_type=jnp.float32) * scale
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    largest = jnp.maximum(sums.largest, scores.max(-1, keepdims=True))
    weights, shrink = jnp.exp(scores - largest), jnp.exp(sums.largest - largest)
    more = jnp.einsum("bhik,bhkd->bhid", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return _Sums(largest, sums.total * shrink + weights.sum(-1, keepdims=True), sums.values * shrink + more)


def _unchanged(sums: _Sums, *_: Array) -> _Sums:
    return sums


def _write(old: Array, new: Array, start: Any, axis: int, here: Any) -> Array:
    """The block with the new keys or values from `start` on, or unchanged where `here` is False."""
    kept = jax.lax.dynamic_slice_in_dim(old, start, new.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(old, jnp.where(here, new, kept), start, axis)


class BeamCache(flax.struct.PyTreeNode):
    """The keys and values of several beams for each prompt. Every call of the model returns a new cache.

    Attributes:
        layers: a tuple with a `LayerBeams` for each layer; with `scan_layers` a single one.
        origin: for each beam and step, the beam that wrote the token.
        index: how many tokens each beam has written.
    """

    layers: Any
    origin: Int[Array, "batch beams steps"]
    index: Any

    @classmethod
    def after_prompts(cls, cache: Any, beams: int, steps: int) -> "BeamCache":
        """A cache for beams that continue the prompts in another cache.

        Args:
            cache: a `Cache` that holds one prompt in each row. Padding may follow a prompt.
            beams: the number of beams for each prompt.
            steps: the most tokens that a beam may write.
        """

        def layer(keys, values):
            prompt_keys, prompt_values = jnp.moveaxis(keys, -3, -1), jnp.moveaxis(values, -3, -2)
            *batch, width, _ = prompt_keys.shape
            sizes = [min(BLOCK, steps - start) for start in range(0, steps, BLOCK)]
            return LayerBeams(
                prompt_keys=prompt_keys,
                prompt_values=prompt_values,
                keys=tuple(jnp.zeros((*batch, width, size * beams), keys.dtype) for size in sizes),
                values=tuple(jnp.zeros((*batch, size * beams, width), keys.dtype) for size in sizes),
            )

        separate = isinstance(cache.keys, tuple)
        layers = tuple(map(layer, cache.keys, cache.values)) if separate else layer(cache.keys, cache.values)
        batch = jax.tree.leaves(cache.keys)[0].shape[-4]
        origin = jnp.broadcast_to(jnp.arange(beams)[None, :, None], (batch, beams, steps))
        return cls(layers=layers, origin=origin, index=jnp.zeros((), jnp.int32))

    def mask(self, prompt_mask: Bool[Array, "batch prompt"], window: int | None = None) -> tuple[Array, list[Array]]:
        """The masks of each beam's next token: over the prompt, and over each block of the beams' tokens.

        Args:
            prompt_mask: True for the tokens of the prompts, after which padding may follow.
            window: the number of tokens, up to its own, that a token may attend to; None: all.
        """
        batch, beams, steps = self.origin.shape
        own = self.origin[..., None] == jnp.arange(beams)
        written = jnp.arange(steps) <= self.index
        if window is not None:
            first = self.index - window + 1  # of the tokens attended to, counted from the end of the prompt
            written = written & (jnp.arange(steps) >= first)
            places = jnp.arange(prompt_mask.shape[1]) - prompt_mask.sum(axis=1)[:, None]
            prompt_mask = prompt_mask & (places >= first)
        own = (own & written[:, None]).reshape(batch, 1, beams, steps * beams)
        ends = range(BLOCK * beams, steps * beams, BLOCK * beams)
        return prompt_mask[:, None, None, :], jnp.split(own, list(ends), axis=-1)

    def reorder(self, parents: Int[Array, "batch beams"]) -> "BeamCache":
        """The cache in which each beam continues its parent. Several beams may share a parent."""
        written = jnp.arange(self.origin.shape[2]) < self.index
        gathered = jnp.take_along_axis(self.origin, parents[..., None], axis=1)
        return self.replace(origin=jnp.where(written, gathered, self.origin))

    def updated(self, layers: Any, tokens: int) -> "BeamCache":
        """The cache after each beam has written a token.

        Args:
            layers: as the attribute, with the new keys and values.
            tokens: the tokens of a row, which is the number of beams.
        """
        return self.replace(layers=layers, index=self.index + 1)
