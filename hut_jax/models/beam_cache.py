"""The key-value cache of several beams for each prompt. All beams of a prompt share the prompt's keys and values.

A beam search drops some beams and copies others. The keys and values of a token then stay where they were written: in
the open block, which has the newest steps. `origin` records which beam wrote the token of each beam and step. When the
block is full, it is closed. Tokens that no beam continues any more are dropped, and the others become closed tokens.
`owned` records which closed tokens each beam continues. Beams mostly share their older tokens. So there are usually few
closed tokens, however many beams there are.

One matrix product multiplies the queries of all beams of a prompt by the keys of all its beams. A mask then leaves each
beam only its own keys. Some of the products are not needed. The alternative would be to gather each beam's keys. That
would read and write all keys at every step.
"""

import functools
import itertools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.products import einsum
from hut_jax.models.shapes import Heads

BLOCK = 8  # steps of the open block
CHUNK = 128  # closed tokens of the first chunk. Each further one has up to twice as many; an unused one is skipped.

# Products sum over the last axis but one: on a CPU other orders took up to eight times as long. The keys of the open
# block are few, and lie as values do, so that a new token is written in one piece.
BeamKeys = Float[Array, "*layers batch heads head_width tokens"]
BeamValues = Float[Array, "*layers batch heads tokens head_width"]


class BeamMask(NamedTuple):
    """Which keys each beam's next token may attend to."""

    prompt: Bool[Array, "batch 1 1 prompt"]
    open: Bool[Array, "batch 1 beams tokens"]
    closed: tuple[Bool[Array, "batch 1 beams tokens"], ...]  # one for each chunk
    used: tuple[Bool[Array, ""], ...]  # whether any beam attends to the chunk
    step: Int[Array, ""]  # at which the next token is written, counted in the open block


class LayerBeams(flax.struct.PyTreeNode):
    """One layer's keys and values; with `scan_layers` those of all layers, on a leading axis.

    Attributes:
        prompt_keys: of the prompt, shared by all beams.
        prompt_values: of the prompt.
        open_keys: of the open block; a token's index is `step * beams + beam`, with the step counted in the block.
        open_values: of the open block, likewise.
        keys: of the closed tokens, one array for each chunk.
        values: of the closed tokens, likewise.
    """

    prompt_keys: BeamKeys
    prompt_values: BeamValues
    open_keys: BeamValues
    open_values: BeamValues
    keys: tuple[BeamKeys, ...]
    values: tuple[BeamValues, ...]

    def attend(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        mask: BeamMask,
        scale: Any,
        cap: float | None = None,
    ) -> tuple[Heads, "LayerBeams"]:
        """Attention of each beam's new token to the prompt, to the beam's earlier tokens and to itself.

        Args:
            query: of the new tokens; the beams stand on the axis that usually is the sequence's length.
            key: of the new tokens.
            value: of the new tokens.
            mask: from `BeamCache.mask`.
            scale: the factor of the query-key products.
            cap: as in `attention.attend`.

        Returns:
            The output, shaped as `query`, and the cache with the new keys and values.
        """
        batch, beams, heads, width = query.shape
        groups, group = key.shape[2], heads // key.shape[2]
        # The queries of a group of heads meet the same keys, as those of several beams do.
        query = query.reshape(batch, beams, groups, group, width).transpose(0, 2, 3, 1, 4)
        query = query.reshape(batch, groups, group * beams, width)
        tiled = functools.partial(jnp.tile, reps=(1, 1, group, 1))
        add = functools.partial(_add_keys, cap=cap)
        start = mask.step * beams
        open_keys = jax.lax.dynamic_update_slice_in_dim(self.open_keys, key.transpose(0, 2, 1, 3), start, 2)
        open_values = jax.lax.dynamic_update_slice_in_dim(self.open_values, value.transpose(0, 2, 1, 3), start, 2)
        nothing = jnp.zeros((*query.shape[:3], 1))
        sums = _Sums(nothing + jnp.finfo(jnp.float32).min, nothing, jnp.zeros(query.shape))
        sums = add(sums, query, self.prompt_keys, self.prompt_values, mask.prompt, scale)
        sums = add(sums, query, _tokens_last(open_keys), open_values, tiled(mask.open), scale)
        for chunk in zip(self.keys, self.values, map(tiled, mask.closed), mask.used, strict=True):
            keys, values, own, used = chunk
            sums = jax.lax.cond(used, add, _unchanged, sums, query, keys, values, own, scale)
        y = (sums.values / sums.total).astype(value.dtype)
        y = y.reshape(batch, groups, group, beams, width).transpose(0, 3, 1, 2, 4).reshape(batch, beams, heads, width)
        return y, self.replace(open_keys=open_keys, open_values=open_values)

    def append(self, start: Any, number: int) -> "LayerBeams":
        """The cache whose chunk of this number holds the tokens of the open block, too, from `start` on."""
        keys, values = list(self.keys), list(self.values)
        keys[number] = jax.lax.dynamic_update_slice_in_dim(keys[number], _tokens_last(self.open_keys), start, -1)
        values[number] = jax.lax.dynamic_update_slice_in_dim(values[number], self.open_values, start, -2)
        return self.replace(keys=tuple(keys), values=tuple(values))

    def close(self, order: Int[Array, "batch tokens"], chunks: int) -> "LayerBeams":
        """The cache whose first chunks hold the tokens of the open block, too.

        Args:
            order: the indices of the tokens to keep, among those of these chunks and then those of the open block.
            chunks: the number of chunks; the others stay as they are.
        """
        ends = _ends(order.shape[-1])
        keys = _take(jnp.concatenate([*self.keys[:chunks], _tokens_last(self.open_keys)], -1), order, -1)
        values = _take(jnp.concatenate([*self.values[:chunks], self.open_values], -2), order, -2)
        return self.replace(
            keys=(*jnp.split(keys, ends, -1), *self.keys[chunks:]),
            values=(*jnp.split(values, ends, -2), *self.values[chunks:]),
        )


class _Sums(NamedTuple):
    """A softmax over some of the keys, to which more can be added (Milakov and Gimelshein, arXiv 1805.02867)."""

    largest: Float[Array, "batch heads queries 1"]  # score so far
    total: Float[Array, "batch heads queries 1"]  # of exp(score - largest)
    values: Float[Array, "batch heads queries head_width"]  # weighted by exp(score - largest)


def _add_keys(
    sums: _Sums, query: Array, keys: Array, values: Array, mask: Array, scale: Any, *, cap: float | None
) -> _Sums:
    scores = einsum("bhid,bhdk->bhik", query, keys, preferred_element_type=jnp.float32) * scale
    scores = scores if cap is None else cap * jnp.tanh(scores / cap)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    largest = jnp.maximum(sums.largest, scores.max(-1, keepdims=True))
    weights, shrink = jnp.exp(scores - largest), jnp.exp(sums.largest - largest)
    more = einsum("bhik,bhkd->bhid", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return _Sums(largest, sums.total * shrink + weights.sum(-1, keepdims=True), sums.values * shrink + more)


def _tokens_last(keys: BeamValues) -> BeamKeys:
    return jnp.swapaxes(keys, -1, -2)


def _unchanged(sums: _Sums, *_: Array) -> _Sums:
    return sums


def _take(tokens: Array, order: Int[Array, "batch chosen"], axis: int) -> Array:
    """The chosen tokens of each row of the batch. Their axis is -1 or -2, and the batch's -4."""
    batch = tokens.ndim - 4
    return jax.vmap(lambda row, chosen: jnp.take(row, chosen, axis), (batch, 0), batch)(tokens, order)


class BeamCache(flax.struct.PyTreeNode):
    """The keys and values of several beams for each prompt. Every call of the model returns a new cache.

    Attributes:
        layers: a tuple with a `LayerBeams` for each layer; with `scan_layers` a single one.
        origin: for each beam and step of the open block, the beam that wrote the token.
        owned: for each beam, the closed tokens that it continues.
        steps: the step in which each closed token was written.
        index: how many tokens each beam has written.
        closed: how many of these are no longer in the open block.
    """

    layers: Any
    origin: Int[Array, "batch beams block"]
    owned: Bool[Array, "batch beams tokens"]
    steps: Int[Array, "batch tokens"]
    index: Any
    closed: Any

    @classmethod
    def after_prompts(cls, cache: Any, beams: int, steps: int) -> "BeamCache":
        """A cache for beams that continue the prompts in another cache.

        Args:
            cache: a `Cache` that holds one prompt in each row. Padding may follow a prompt.
            beams: the number of beams for each prompt.
            steps: the most tokens that a beam may write.
        """
        block = min(BLOCK, steps)
        sizes = _chunks((steps - 1) // block * block * beams)

        def layer(keys, values):
            prompt_keys, prompt_values = jnp.moveaxis(keys, -3, -1), jnp.moveaxis(values, -3, -2)
            *batch, width, _ = prompt_keys.shape

            def empty(size):
                return jnp.zeros((*batch, width, size), keys.dtype), jnp.zeros((*batch, size, width), keys.dtype)

            open_block = empty(block * beams)[1]
            closed = [empty(size) for size in sizes]
            return LayerBeams(
                prompt_keys=prompt_keys,
                prompt_values=prompt_values,
                open_keys=open_block,
                open_values=open_block,
                keys=tuple(keys for keys, _ in closed),
                values=tuple(values for _, values in closed),
            )

        separate = isinstance(cache.keys, tuple)
        layers = tuple(map(layer, cache.keys, cache.values)) if separate else layer(cache.keys, cache.values)
        batch = jax.tree.leaves(cache.keys)[0].shape[-4]
        origin = jnp.broadcast_to(jnp.arange(beams)[None, :, None], (batch, beams, block))
        return cls(
            layers=layers,
            origin=origin,
            owned=jnp.zeros((batch, beams, sum(sizes)), bool),
            steps=jnp.zeros((batch, sum(sizes)), jnp.int32),
            index=jnp.zeros((), jnp.int32),
            closed=jnp.zeros((), jnp.int32),
        )

    @property
    def full(self) -> Bool[Array, ""]:
        """Whether the open block is full. `close` must be called before the next token is written."""
        return self.index - self.closed >= self.origin.shape[2]

    def mask(self, prompt_mask: Bool[Array, "batch prompt"], window: int | None = None) -> BeamMask:
        """The masks of each beam's next token.

        Args:
            prompt_mask: True for the tokens of the prompts, after which padding may follow.
            window: the number of tokens, up to its own, that a token may attend to; None: all.
        """
        batch, beams, block = self.origin.shape
        steps = self.closed + jnp.arange(block)
        written, closed = steps <= self.index, self.owned
        if window is not None:
            first = self.index - window + 1  # of the tokens attended to, counted from the end of the prompt
            written = written & (steps >= first)
            closed = closed & (self.steps >= first)[:, None]
            places = jnp.arange(prompt_mask.shape[1]) - prompt_mask.sum(axis=1)[:, None]
            prompt_mask = prompt_mask & (places >= first)
        own = (self._own_open() & written[:, None]).reshape(batch, 1, beams, block * beams)
        chunks = jnp.split(closed[:, None], _ends(closed.shape[-1]), -1) if closed.shape[-1] else []
        used = tuple(map(jnp.any, chunks))
        return BeamMask(prompt_mask[:, None, None, :], own, tuple(chunks), used, self.index - self.closed)

    def reorder(self, parents: Int[Array, "batch beams"]) -> "BeamCache":
        """The cache in which each beam continues its parent. Several beams may share a parent."""
        written = jnp.arange(self.origin.shape[2]) < self.index - self.closed
        gathered = jnp.take_along_axis(self.origin, parents[..., None], axis=1)
        owned = jnp.take_along_axis(self.owned, parents[..., None], axis=1)
        return self.replace(origin=jnp.where(written, gathered, self.origin), owned=owned)

    def updated(self, layers: Any, tokens: int) -> "BeamCache":
        """The cache after each beam has written a token.

        Args:
            layers: as the attribute, with the new keys and values.
            tokens: the tokens of a row, which is the number of beams.
        """
        return self.replace(layers=layers, index=self.index + 1)

    def close(self) -> "BeamCache":
        """The cache after its full block was closed; the next one is open and empty.

        If there is room for no more steps, or the block is not full, what it returns must not be used.
        """
        sizes = _chunks(self.owned.shape[-1])
        if not sizes:
            return self
        live = self.owned.any(axis=1).sum(-1) + self._own_open().any(axis=1).sum((-2, -1))
        held = jnp.where(self.owned, jnp.arange(1, self.owned.shape[-1] + 1), 0)
        tokens = jnp.maximum(live.max(), held.max())
        # Only the chunks that hold tokens before or after are gathered.
        chunks = jnp.searchsorted(jnp.cumsum(jnp.array(sizes)), tokens)
        closed: BeamCache = jax.lax.switch(
            chunks, [functools.partial(BeamCache._close, chunks=n + 1) for n in range(len(sizes))], self
        )
        return closed

    def _close(self, chunks: int) -> "BeamCache":
        batch, beams, block = self.origin.shape
        size = sum(_chunks(self.owned.shape[-1])[:chunks])
        own = self._own_open().reshape(batch, beams, block * beams)
        owned = jnp.concatenate([self.owned[..., :size], own], -1)
        new = jnp.repeat(self.closed + jnp.arange(block), beams)
        steps = jnp.concatenate([self.steps[:, :size], jnp.broadcast_to(new, (batch, new.size))], -1)
        order = jnp.argsort(~owned.any(axis=1), axis=-1, stable=True)[:, :size]  # tokens without a beam come last
        close = functools.partial(LayerBeams.close, order=order, chunks=chunks)
        if beams == 1:  # it continues all of its tokens, and a gather would take longer than their attention
            # A block lies within one chunk: the sizes of all chunks are multiples of a block's.
            start = self.closed - sum(_chunks(self.owned.shape[-1])[: chunks - 1])
            close = functools.partial(LayerBeams.append, start=start, number=chunks - 1)
        layers = jax.tree.map(close, self.layers, is_leaf=lambda one: isinstance(one, LayerBeams))
        return self.replace(
            layers=layers,
            origin=jnp.broadcast_to(jnp.arange(beams)[None, :, None], self.origin.shape),
            owned=self.owned.at[..., :size].set(jnp.take_along_axis(owned, order[:, None], axis=-1)),
            steps=self.steps.at[:, :size].set(jnp.take_along_axis(steps, order, axis=-1)),
            closed=self.index,
        )

    def _own_open(self) -> Bool[Array, "batch beams block beams"]:
        """For each beam and step of the open block, the beam that wrote its token; its own where none is written."""
        return self.origin[..., None] == jnp.arange(self.origin.shape[1])


def _chunks(tokens: int) -> list[int]:
    """The sizes of the chunks that hold this many closed tokens."""
    sizes: list[int] = []
    while tokens > 0:
        sizes.append(min(tokens, CHUNK * 2 ** len(sizes)))
        tokens -= sizes[-1]
    return sizes


def _ends(tokens: int) -> list[int]:
    """Where each chunk but the last one ends."""
    return list(itertools.accumulate(_chunks(tokens)))[:-1]
