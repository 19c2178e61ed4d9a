"""How a model computes: its dtype, what it recomputes, whether its layers are scanned, and its attention."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from hut_jax.core.errors import UserError, nearest
from hut_jax.models.attention import ATTENTION
from hut_jax.models.layers import REMAT


@dataclass(frozen=True)
class Compute:
    """How a model computes: options that change time and memory, and results only by rounding.

    Attributes:
        dtype: of the parameters and the computation. Statistics and logits are in fp32.
        remat: what the backward pass recomputes of each layer, to save memory: "none"; "dots", all but the products
            with kernels; or "full", all.
        scan_layers: whether the layers are one `nn.scan`, which compiles one layer, however many there are. Their
            parameters are then stacked.
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
