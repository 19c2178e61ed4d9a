"""The key-value cache of a causal model: the keys and values of the tokens that it has read."""

from typing import Any

import flax.struct
import jax


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
