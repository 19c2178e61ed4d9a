"""The key-value cache of a causal model: the keys and values of the tokens that it has read."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from hut_jax.core.errors import UserError


class Cache(flax.struct.PyTreeNode):
    """The keys and values of the tokens read so far. Every call of the model returns a new cache.

    Attributes:
        keys: a tuple with one array for each layer, `[batch, length, heads, head_width]`; with `scan_layers` one
            array with a leading layer axis. In both cases the batch is axis -4.
        values: as `keys`.
        index: the number of tokens read. The next token is written at this index. Under jit a call cannot notice that
            it runs past the end, and would overwrite the last tokens: the caller must count.
    """

    keys: Any
    values: Any
    index: Any

    @property
    def length(self) -> int:
        """The number of tokens that fit in the cache."""
        return jax.tree.leaves(self.keys)[0].shape[-3]

    @property
    def layers(self) -> Any:
        """A tuple of each layer's `(keys, values)`; with `scan_layers` all keys and all values."""
        pair = self.keys, self.values
        return tuple(zip(*pair, strict=True)) if isinstance(self.keys, tuple) else pair

    def updated(self, layers: Any, tokens: int) -> "Cache":
        """The cache after `tokens` more have been read.

        Args:
            layers: as the property, with the new keys and values.
            tokens: the number of tokens read.
        """
        keys, values = zip(*layers, strict=True) if isinstance(self.keys, tuple) else layers
        return Cache(keys=keys, values=values, index=self.index + tokens)


def empty_cache(layers: int, shape: tuple[int, int, int, int], dtype: Any, *, stacked: bool) -> Cache:
    """A cache without tokens.

    Args:
        layers: the number of layers.
        shape: `[batch, length, heads, head_width]` of the keys of one layer.
        dtype: of keys and values.
        stacked: whether the layers are scanned.
    """

    def empty() -> Any:
        if stacked:
            return jnp.zeros((layers, *shape), dtype)
        return tuple(jnp.zeros(shape, dtype) for _ in range(layers))

    return Cache(keys=empty(), values=empty(), index=jnp.zeros((), jnp.int32))


def check_segments(segment_ids: Any, position_ids: Any, cache: Any) -> None:
    """Check a call of a causal model whose rows may hold several texts.

    Raises:
        UserError: there are segments without positions, or with a cache.
    """
    if segment_ids is not None and (position_ids is None or cache is not None):
        raise UserError("segment_ids needs position_ids, and takes no cache")


def check_lengths(n_positions: int, length: int, start: Any, keys: int, attention_mask: Any) -> None:
    """Check a call of a causal model.

    Args:
        n_positions: the length of the longest sequence that the model takes.
        length: the number of tokens of the call.
        start: the number of tokens in the cache.
        keys: the number of tokens that fit in the cache; without one, `length`.
        attention_mask: the caller's.

    Raises:
        UserError: there are more tokens than the model takes or than fit, or the mask has another length.
    """
    if keys > n_positions:
        raise UserError(f"a sequence of {keys} tokens is longer than the model's n_positions {n_positions}")
    if attention_mask is not None and attention_mask.shape[-1] != keys:
        raise UserError(f"attention_mask covers {attention_mask.shape[-1]} keys, not {keys}")
    known = not isinstance(start, jax.core.Tracer)
    if length > keys or (known and int(start) + length > keys):
        read = f" and {int(start)} are in it" if known else ""
        raise UserError(f"{length} more tokens do not fit a cache for {keys} tokens{read}")
