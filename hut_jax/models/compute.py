"""The computation of a model: dtype, recomputation, scanned layers and attention."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from hut_jax.core.errors import UserError, nearest
from hut_jax.models.attention import ATTENTION
from hut_jax.models.layers import REMAT


@dataclass(frozen=True)
class Compute:
    """The options of a model's computation. They change time and memory, and the results only by rounding.

    Attributes:
        dtype: of the parameters and the computation. Statistics and logits are in fp32.
        remat: the part of each layer that the backward pass recomputes to save memory. "none": nothing. "dots": all
            but the products with kernels. "full": everything.
        scan_layers: whether the layers are one `nn.scan`. It compiles a single layer for all of them, and their
            parameters are stacked.
        attention: "xla", or "cudnn" for cuDNN's fused kernel (`attention.attend`) where there is no cache.

    Raises:
        UserError: there is no such `remat` or `attention`.
    """

    dtype: Any = jnp.float32
    remat: str = "none"
    scan_layers: bool = False
    attention: str = "xla"

    def __post_init__(self):
        for name, valid in (("remat", tuple(REMAT)), ("attention", ATTENTION)):
            value = getattr(self, name)
            if value not in valid:
                raise UserError(f"{name} is {value!r}; {nearest(str(value), valid)}")


FLOAT32 = Compute()
"""In float32, without recomputation, with separate layers and XLA's attention."""
