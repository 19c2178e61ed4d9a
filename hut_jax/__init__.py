"""HUT and its peers: parameter-efficient fine-tuning of Flax Linen models."""

__version__ = "0.1.0"

from hut_jax.adapter import Adapter
from hut_jax.adapter_files import load_adapter, save_adapter
from hut_jax.errors import UserError
from hut_jax.models.pretrained import load_pretrained, save_pretrained
from hut_jax.transforms import HUT, Full, Transform, make_transform

__all__ = [
    "HUT",
    "Adapter",
    "Full",
    "Transform",
    "UserError",
    "load_adapter",
    "load_pretrained",
    "make_transform",
    "save_adapter",
    "save_pretrained",
]
