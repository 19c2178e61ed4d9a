"""The rotary positions of a model, from a GGUF file's metadata and its tensors of factors."""

import math
from typing import Any

import numpy as np

from hut_jax.models.gguf.fields import Fields
from hut_jax.models.gguf.tensors import Tensors

_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192  # of Llama 3; llama.cpp's converter knows no others
_BETAS = {"yarn_beta_fast": ("beta_fast", 32.0), "yarn_beta_slow": ("beta_slow", 1.0)}
_UNKNOWN = ("attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier", "alpha")


def rotary_scaling(fields: Fields, tensors: Tensors, theta: float, dim: int) -> dict[str, Any] | None:
    """The `rope_scaling` of config.json; None if positions are not scaled.

    Args:
        fields: of the file.
        tensors: of the file.
        theta: the base of the wavelengths.
        dim: the rotary entries of a head.

    Raises:
        UserError: the scaling is not known.
    """
    long, short = (tensors.stored(f"rope_factors_{which}.weight") for which in ("long", "short"))
    if long is not None and short is not None and fields.architecture == "phi3":
        return {"rope_type": "longrope", "long_factor": _decimals(long), "short_factor": _decimals(short)}
    factors = tensors.stored("rope_freqs.weight")
    if factors is not None:
        return _llama3(fields, factors, theta, dim)
    kind = fields.text("rope.scaling.type", "linear" if fields.has("rope.scale_linear") else "none")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    for name in _UNKNOWN:
        if fields.has(f"rope.scaling.{name}"):
            raise fields.error(f"its rotary positions have {name!r}, which config.json cannot say")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise fields.error(f"rotary positions of the kind {kind!r} are not supported; 'linear' and 'yarn' are")
    betas = {name: fields.number(f"rope.scaling.{key}", default) for key, (name, default) in _BETAS.items()}
    original = fields.whole("rope.scaling.original_context_length")
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **betas}


def _llama3(fields: Fields, factors: np.ndarray, theta: float, dim: int) -> dict[str, Any]:
    """The settings of Llama 3 that give these factors: what each wavelength is multiplied by."""
    factor = max(_decimals(factors), default=0.0)
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _ORIGINAL,
    }
    if 2 * factors.size == dim and theta > 1 and factor > 0:
        wavelengths = 2 * math.pi * theta ** (np.arange(0, dim, 2) / dim)
        # 1 where the original context holds at least _HIGH periods, the whole factor where it holds at most _LOW.
        smooth = np.clip((_ORIGINAL / wavelengths - _LOW) / (_HIGH - _LOW), 0, 1)
        if np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4):
            return scaling
    raise fields.error("the factors of its rotary positions (rope_freqs) are not those of Llama 3")


def _decimals(values: np.ndarray) -> list[float]:
    """Each number as the shortest decimal that is it in float32."""
    return [float(str(value)) for value in values.astype(np.float32).ravel()]
