"""PEFT's methods, by their names and by the names of our transformations."""

from collections.abc import Collection, Mapping

from hut_jax.interop.layers import Layers
from hut_jax.interop.methods.base import Method, Own
from hut_jax.interop.methods.lora import ADALORA, LORA
from hut_jax.interop.methods.low_rank import HIRA, LOHA
from hut_jax.interop.methods.other_methods import Scales, Tokens, WholeModules
from hut_jax.transforms import Full, Transform

_TOKENS = Tokens()

METHODS: Mapping[str, Method] = {
    method.peft_type: method for method in (LORA(), ADALORA(), HIRA(), LOHA(), Scales(), WholeModules(), _TOKENS)
}
"""Every method by PEFT's name."""

_OF_TRANSFORM: Mapping[str, Method] = {
    "lora": METHODS["LORA"],
    "lora_plus": METHODS["LORA"],
    "dora": METHODS["LORA"],
    "hira": METHODS["HIRA"],
    "loha": METHODS["LOHA"],
    "ia3": METHODS["IA3"],
    "layernorm": METHODS["LN_TUNING"],
}


def method_for(transform: Transform, own: Mapping[str, Own], beside: Collection[str], layers: Layers) -> Method | None:
    """PEFT's method for a transformation; None if it has none.

    Args:
        transform: the transformation.
        own: its factors, by path.
        beside: the parameters that train beside it.
        layers: of the model.
    """
    if transform.name != Full.name:
        return _OF_TRANSFORM.get(transform.name)
    return METHODS["TRAINABLE_TOKENS" if not beside and _TOKENS.fits(own, layers) else "LN_TUNING"]
