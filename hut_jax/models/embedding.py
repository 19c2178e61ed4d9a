"""The lookup of tokens, positions and types, on one device or a mesh."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from hut_jax.parallel.activations import whole


class Embed(nn.Embed):
    """`nn.Embed`, which on a mesh gathers its table before it takes rows from it, as other layers gather theirs."""

    def __call__(self, inputs: Any) -> Array:
        """The rows of these ids."""
        if self.num_embeddings == 1:
            return super().__call__(inputs)
        (table,) = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        return jnp.take(whole(jnp.asarray(table)), inputs, axis=0)
