"""PEFT's methods, by their names and by the names of our transformations."""

from collections.abc import Mapping

from hut_jax.interop.ia3_and_norms import Norms, Scales
from hut_jax.interop.low_rank import HIRA, LOHA, LORA
from hut_jax.interop.method import Method

METHODS: Mapping[str, Method] = {method.peft_type: method for method in (LORA(), HIRA(), LOHA(), Scales(), Norms())}
"""Every method by PEFT's name."""

OF_TRANSFORM: Mapping[str, Method] = {
    "lora": METHODS["LORA"],
    "lora_plus": METHODS["LORA"],
    "dora": METHODS["LORA"],
    "hira": METHODS["HIRA"],
    "loha": METHODS["LOHA"],
    "ia3": METHODS["IA3"],
    "layernorm": METHODS["LN_TUNING"],
}
"""The method of each of our transformations, by its name."""
