"""HUT and its peers: parameter-efficient fine-tuning of Flax Linen models."""

__version__ = "0.1.0"

from hut_jax.adapter import Adapter
from hut_jax.errors import UserError
from hut_jax.transforms import HUT, Full, Transform, make_transform

__all__ = ["HUT", "Adapter", "Full", "Transform", "UserError", "make_transform"]
