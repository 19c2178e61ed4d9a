"""The embedding of tokens, positions and types, on one device or a mesh."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from hut_jax.parallel.activations import gathered


class Embed(nn.Embed):
    """`nn.Embed` that on a mesh gathers its table before the lookup, as other layers gather their kernels."""

    def __call__(self, inputs: Any) -> Array:
        """The rows of the table with these ids."""
        if self.num_embeddings == 1:
            return super().__call__(inputs)
        (table,) = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        return jnp.take(gathered(jnp.asarray(table)), inputs, axis=0)
