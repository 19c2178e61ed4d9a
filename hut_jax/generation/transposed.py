"""Kernels with their axes exchanged, by which matrix units of a CPU multiply a few rows up to twice as fast.

XLA brings a kernel `[n, m]` into the order that the CPU's matrix units read, anew for each product. One of `[m, n]` is
in that order already. Where a product has many rows, as in training, this hardly matters (`benchmarks.products`).
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hut_jax.core.products import on_matrix_units
from hut_jax.models.transformer import Transformer


class Transposed(flax.struct.PyTreeNode, nn.meta.AxisMetadata):
    """A kernel in a tree of parameters. Its layer gets it from Flax with the axes as usual.

    Attributes:
        exchanged: the kernel, with its axes exchanged.
    """

    exchanged: Float[Array, "m n"]

    def unbox(self) -> Float[Array, "n m"]:
        """The kernel.

        XLA does not compute it, but makes the exchange a part of the product, if the inputs have three axes as in a
        model's layers. With two axes, it would also convert the kernel to fp32.
        """
        return self.exchanged.T

    def replace_boxed(self, val: Any) -> "Transposed":
        """Another kernel in the place of this one."""
        return Transposed(val.T)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Transposed":
        """What `nn.scan` asks of metadata: there is none here."""
        return self

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Transposed":
        """What `nn.scan` asks of metadata: there is none here."""
        return self


def for_decoding(model: Any, params: Any) -> Any:
    """The parameters with `Transposed` kernels in the model's layers, in bf16 on matrix units; else as they are.

    Those of scanned layers stay as they are, because nothing was gained there. So does the kernel of a head, whose
    input has two axes after the prompts, and so do all of models that are not ours: they may read a kernel otherwise.
    """
    if not on_matrix_units() or not isinstance(model, Transformer):
        return params
    return jax.tree_util.tree_map_with_path(_for_decoding, params)


def _for_decoding(path: tuple[Any, ...], leaf: Any) -> Any:
    first, last = (str(getattr(path[i], "key", "")) for i in (0, -1))
    is_kernel = first.startswith("layer_") and last == "kernel"
    return Transposed(_transpose(leaf)) if is_kernel and leaf.dtype == jnp.bfloat16 else leaf


_transpose = jax.jit(jnp.transpose)
