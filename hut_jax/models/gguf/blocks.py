"""The types of GGUF's tensors: floats, and blocks of small integers with a scale, which the package gguf unpacks."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from hut_jax.core.errors import UserError

FLOATS = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(jnp.bfloat16)}
"""The types that need no unpacking, by ggml's numbers."""

_STEP = 1 << 24  # items that are unpacked at a time: a few copies of so many are in memory


def block_of(kind: int, name: str) -> tuple[int, int]:
    """The items of a block of this type, and its bytes.

    Args:
        kind: ggml's number of the type.
        name: of a tensor of this type, for an error.

    Raises:
        UserError: the type is not read, or the package gguf is missing.
    """
    if kind in FLOATS:
        return 1, FLOATS[kind].itemsize
    gguf = _gguf()
    known = {int(one): one for one in gguf.GGMLQuantizationType}
    if kind not in known or known[kind] not in gguf.quants._type_traits:
        called = known[kind].name if kind in known else f"number {kind}"
        raise UserError(f"{name!r} is of the type {called}, which is not read")
    return gguf.GGML_QUANT_SIZES[known[kind]]


def unpack(raw: np.ndarray, kind: int, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of these bytes, in float32 unless the file has other floats.

    Args:
        raw: the tensor's bytes.
        kind: ggml's number of its type.
        shape: of the tensor.
    """
    if kind in FLOATS:
        return raw.view(FLOATS[kind]).reshape(shape)
    gguf = _gguf()
    rows = raw.reshape(math.prod(shape[:-1]), -1)
    whole = np.empty((len(rows), shape[-1]), np.float32)
    step = max(1, _STEP // shape[-1])
    for i in range(0, len(rows), step):
        whole[i : i + step] = gguf.dequantize(rows[i : i + step], gguf.GGMLQuantizationType(kind))
    return whole.reshape(shape)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError(
            "its tensors are quantised, and the package gguf, which unpacks them, is not installed: "
            "pip install 'hut_jax[gguf]'"
        ) from None
    return gguf
