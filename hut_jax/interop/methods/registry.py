"""PEFT's methods, by their names and by the names of our transformations."""

from collections.abc import Mapping

from hut_jax.interop.methods.base import Method
from hut_jax.interop.methods.lora import ADALORA, LORA
from hut_jax.interop.methods.low_rank import HIRA, LOHA
from hut_jax.interop.methods.other_methods import Norms, Scales, Tokens

METHODS: Mapping[str, Method] = {
    method.peft_type: method for method in (LORA(), ADALORA(), HIRA(), LOHA(), Scales(), Norms(), Tokens())
}
"""Every method by PEFT's name."""

OF_TRANSFORM: Mapping[str, Method] = {
    "lora": METHODS["LORA"],
    "lora_plus": METHODS["LORA"],
    "dora": METHODS["LORA"],
    "hira": METHODS["HIRA"],
    "loha": METHODS["LOHA"],
    "ia3": METHODS["IA3"],
    "layernorm": METHODS["LN_TUNING"],
    "full": METHODS["TRAINABLE_TOKENS"],
}
"""The method of each of our transformations, by its name."""
