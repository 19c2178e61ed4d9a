"""HUT and its peers: parameter-efficient fine-tuning of Flax Linen models."""

from hut_jax.adapter import Adapter
from hut_jax.adapter_files import load_adapter, save_adapter
from hut_jax.bank import Bank, combine
from hut_jax.errors import UserError
from hut_jax.fingerprint import fingerprint
from hut_jax.models.pretrained import load_pretrained, save_pretrained
from hut_jax.peft import load_peft, save_peft
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
from hut_jax.version import VERSION as __version__

__all__ = [
    "HUT",
    "IA3",
    "SSF",
    "Adapter",
    "Bank",
    "BitFit",
    "DoRA",
    "Full",
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
