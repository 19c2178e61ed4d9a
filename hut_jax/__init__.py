"""HUT and its peers: parameter-efficient fine-tuning of Flax Linen models."""

from hut_jax.adapters.adapter import Adapter
from hut_jax.adapters.bank import Bank, combine
from hut_jax.adapters.files import load_adapter, save_adapter
from hut_jax.adapters.fingerprint import fingerprint
from hut_jax.core.errors import UserError
from hut_jax.core.version import VERSION as __version__
from hut_jax.interop import load_peft, save_peft
from hut_jax.models.compute import Compute
from hut_jax.models.hub.heads import Head
from hut_jax.models.hub.pretrained import load_pretrained
from hut_jax.models.hub.saving import save_pretrained
from hut_jax.transforms import (
    HUT,
    IA3,
    SSF,
    BitFit,
    DoRA,
    Full,
    HiRA,
    LayerNorm,
    LoHa,
    LoRA,
    LoRAPlus,
    Transform,
    make_transform,
)

__all__ = [
    "HUT",
    "IA3",
    "SSF",
    "Adapter",
    "Bank",
    "BitFit",
    "Compute",
    "DoRA",
    "Full",
    "Head",
    "HiRA",
    "LayerNorm",
    "LoHa",
    "LoRA",
    "LoRAPlus",
    "Transform",
    "UserError",
    "__version__",
    "combine",
    "fingerprint",
    "load_adapter",
    "load_peft",
    "load_pretrained",
    "make_transform",
    "save_adapter",
    "save_peft",
    "save_pretrained",
]
