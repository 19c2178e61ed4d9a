"""Rotary positions (Su et al., "RoFormer", arXiv 2104.09864, 2021) and the ways to stretch them to longer texts.

A position turns each pair of a head's entries by an angle, the position times the pair's frequency. The pairs are entry
i and entry i + n of the first 2n entries; with a partial rotary factor the other entries are not turned.

| type | frequencies |
|---|---|
| `default` | `theta ** (-i / n)` for pair i |
| `linear` | divided by `factor` |
| `dynamic` | of a larger theta, the larger the longer the sequence, once it is longer than the model's positions |
| `llama3` | the low ones divided by `factor`, the high ones kept, a ramp between |
| `yarn` | the same with another ramp, and attention sharpened (Peng et al., arXiv 2309.00071, 2023) |
| `longrope` | each divided by a number of its own; the numbers differ for short and long sequences (arXiv 2402.13753) |
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.products import saved_and_rounded
from hut_jax.models.config_json import Numbers
from hut_jax.models.shapes import HostOrDevice, PerToken

LONGEST = 2**31 - 1
"""The largest number of positions: they are 32-bit integers."""

Rotation = tuple[Float[Array, "#batch length half"], Float[Array, "#batch length half"]]
"""The cosine and the sine of each token's angles."""

FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("factor", "short_factor", "long_factor", "original_max_position_embeddings", "attention_factor"),
}
"""The fields of each type, beside the theta and the partial factor that all have."""

_OPTIONAL = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")

_POSITIVE = (1e-6, 1e12)
# Wider than any model's, and narrow enough that nothing computed from them is infinite.
_RANGES: dict[str, tuple[float, float]] = {
    "rope_theta": (1.001, 1e12),
    "original_max_position_embeddings": (2, LONGEST),
    **dict.fromkeys(("mscale", "mscale_all_dim"), (0, 1e12)),
    **dict.fromkeys(("factor", "attention_factor", "beta_fast", "beta_slow"), _POSITIVE),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor", "short_factor", "long_factor"), _POSITIVE),
}


@dataclasses.dataclass(frozen=True)
class Rope:
    """The rotary positions of some layers, with the names of Hugging Face's `rope_parameters`.

    Raises:
        UserError: the type is unknown, or a field that it needs is missing or out of range.
    """

    rope_type: str = "default"
    rope_theta: float = 10_000.0
    partial_rotary_factor: float = 1.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: Numbers = ()
    long_factor: Numbers = ()

    def __post_init__(self):
        if self.rope_type not in FIELDS:
            raise UserError(f"rope_type {self.rope_type!r} is not supported; {nearest(self.rope_type, FIELDS)}")
        needed = [name for name in FIELDS[self.rope_type] if name not in _OPTIONAL]
        missing = [name for name in needed if getattr(self, name) in (None, ())]
        if missing:
            raise UserError(f"rope_type {self.rope_type!r} needs {', '.join(map(repr, missing))}")
        for name, kind in _RANGES.items():
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not kind[0] <= value <= kind[1]:
                    raise UserError(f"{name!r} must be from {kind[0]:g} to {kind[1]:g}, not {value}")
        if not 0 < self.partial_rotary_factor <= 1:
            raise UserError(f"'partial_rotary_factor' must be above 0 and at most 1, not {self.partial_rotary_factor}")
        if self.rope_type == "llama3" and not _number(self.low_freq_factor) < _number(self.high_freq_factor):
            raise UserError(
                f"'low_freq_factor' must be below 'high_freq_factor', and they are {self.low_freq_factor:g} and "
                f"{self.high_freq_factor:g}"
            )

    def rotary_width(self, head_width: int) -> int:
        """The number of entries of a head that are turned.

        Raises:
            UserError: they are no pairs, or too few, or the lists of a longrope have another length.
        """
        width = int(head_width * self.partial_rotary_factor)
        least = 4 if self.rope_type == "dynamic" else 2
        if width % 2 or width < least:
            raise UserError(
                f"a head has {head_width} entries and rotary positions turn {width} of them, which must be even and at "
                f"least {least}"
            )
        if self.rope_type == "longrope":
            for name in ("short_factor", "long_factor"):
                if len(getattr(self, name)) != width // 2:
                    raise UserError(f"{name!r} has {len(getattr(self, name))} numbers, and must have {width // 2}")
        return width

    @property
    def changes_at(self) -> int | None:
        """The length at which all frequencies change at once; None: at none."""
        changes = self.rope_type == "longrope" and self.short_factor != self.long_factor
        return self.original_max_position_embeddings if changes else None


DEFAULT = Rope()
"""The rotary positions of a model whose config says nothing about them."""


def rotation(
    rope: Rope | None,
    positions: PerToken,
    lengths: Int[HostOrDevice, "#batch #length"],
    head_width: int,
    trained: int,
    width: int,
) -> Rotation:
    """The cosine and the sine of each token's angles, in fp32.

    Args:
        rope: the rotary positions; None: the layers have none, and nothing is turned.
        positions: of the tokens.
        lengths: of the texts that the tokens are part of.
        head_width: the number of entries of a head.
        trained: the model's `max_position_embeddings`.
        width: the number of entries that are turned if there are no rotary positions.
    """
    positions = jnp.asarray(positions)
    if rope is None:
        shape = (*positions.shape, width // 2)
        return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    frequencies = _frequencies(rope, rope.rotary_width(head_width), trained, jnp.asarray(lengths)[..., None])
    angles = positions[..., None].astype(jnp.float32) * frequencies
    sharp = jnp.float32(_sharpness(rope))
    return jnp.cos(angles) * sharp, jnp.sin(angles) * sharp


def rotated(
    x: Float[Array, "batch length heads head_width"],
    cos: Float[Array, "#batch length half"],
    sin: Float[Array, "#batch length half"],
) -> Float[Array, "batch length heads head_width"]:
    """Queries or keys with their pairs turned.

    It computes in fp32 or wider and rounds the result, since CPUs slice and join bf16 slowly.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second, rest = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), (half, 2 * half), axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return saved_and_rounded(jnp.concatenate(turned, axis=-1), x.dtype)


def _frequencies(rope: Rope, width: int, trained: int, length: Int[Array, "#batch #length 1"]) -> Any:
    """The frequency of each pair: `[width // 2]`, or for each token where it depends on the length."""
    exponents = np.arange(0, width, 2) / width
    plain = rope.rope_theta**-exponents
    factor = 1.0 if rope.factor is None else rope.factor
    if rope.rope_type == "dynamic":
        excess = jnp.maximum(factor * length / float(trained) - (factor - 1), 1).astype(jnp.float32)
        return jnp.float32(plain) * excess ** jnp.float32(-exponents * width / (width - 2))
    if rope.rope_type == "longrope":
        short, long = (np.float32(plain / np.array(numbers)) for numbers in (rope.short_factor, rope.long_factor))
        return jnp.where(length > _number(rope.original_max_position_embeddings), long, short)
    kept = np.zeros_like(plain)  # of each frequency, how much of it is not divided by the factor
    if rope.rope_type == "default":
        kept += 1
    if rope.rope_type == "llama3":
        kept = _llama3_share(rope, plain)
    if rope.rope_type == "yarn":
        kept = _yarn_share(rope, width)
    return np.float32(plain * (kept + (1 - kept) / factor))


def _llama3_share(rope: Rope, frequencies: np.ndarray) -> np.ndarray:
    """1 for pairs that turn often within the original length, 0 for those that turn rarely, a ramp between."""
    low, high = _number(rope.low_freq_factor), _number(rope.high_freq_factor)
    turns = _number(rope.original_max_position_embeddings) * frequencies / (2 * math.pi)
    return np.clip((turns - low) / (high - low), 0, 1)


def _yarn_share(rope: Rope, width: int) -> np.ndarray:
    """The same, with a ramp over the pairs' numbers."""
    original = _number(rope.original_max_position_embeddings)

    def pair_with(turns: float) -> float:
        """The number of the pair that turns so often within the original length, not rounded."""
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    low, high = pair_with(rope.beta_fast or 32.0), pair_with(rope.beta_slow or 1.0)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high += 0.001 if low == high else 0
    return 1 - np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)


def _sharpness(rope: Rope) -> float:
    """The factor of cosine and sine, by which attention gets sharper."""
    if rope.rope_type not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    factor = _number(rope.factor)
    if factor <= 1:
        return 1.0
    if rope.rope_type == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(_number(rope.original_max_position_embeddings)))

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def _number(value: int | float | None) -> int | float:
    assert value is not None  # `Rope` has checked it
    return value
