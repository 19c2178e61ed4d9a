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
        index: how many tokens have been read. The next one is written there. Under jit a call cannot tell whether it
            runs past the end, where it would overwrite the last tokens: the caller counts.
    """

    keys: Any
    values: Any
    index: Any

    @property
    def length(self) -> int:
        """How many tokens there is room for."""
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
            tokens: how many were read.
        """
        keys, values = zip(*layers, strict=True) if isinstance(self.keys, tuple) else layers
        return Cache(keys=keys, values=values, index=self.index + tokens)
