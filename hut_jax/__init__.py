"""HUT and its peers: parameter-efficient fine-tuning of Flax models. `hut_jax.nnx` is for those of Flax NNX.

A public name is imported when it is first used, so that `import hut_jax` and each command load only what they need.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hut_jax.core.version import VERSION as __version__

if TYPE_CHECKING:
    from hut_jax.adapters.adapter import Adapter
    from hut_jax.adapters.bank import Bank, combine
    from hut_jax.adapters.files import load_adapter, push_adapter, save_adapter
    from hut_jax.adapters.fingerprint import fingerprint
    from hut_jax.core.errors import UserError
    from hut_jax.interop import load_peft, save_peft
    from hut_jax.models.compute import Compute
    from hut_jax.models.gguf.convert import convert_gguf
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
    "convert_gguf",
    "fingerprint",
    "load_adapter",
    "load_peft",
    "load_pretrained",
    "make_transform",
    "push_adapter",
    "save_adapter",
    "save_peft",
    "save_pretrained",
]

_ELSEWHERE = {
    "Adapter": "adapters.adapter",
    "Bank": "adapters.bank",
    "Compute": "models.compute",
    "Head": "models.hub.heads",
    "UserError": "core.errors",
    "combine": "adapters.bank",
    "convert_gguf": "models.gguf.convert",
    "fingerprint": "adapters.fingerprint",
    "load_adapter": "adapters.files",
    "load_peft": "interop",
    "load_pretrained": "models.hub.pretrained",
    "push_adapter": "adapters.files",
    "save_adapter": "adapters.files",
    "save_peft": "interop",
    "save_pretrained": "models.hub.saving",
}
"""The module of each public name that is not in `hut_jax.transforms`."""


if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> Any:
        if name == "nnx":  # a module of its own, for models of Flax NNX
            return importlib.import_module("hut_jax.nnx")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'transforms')}")
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "nnx"})
