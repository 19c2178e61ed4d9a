"""Transformations of a frozen kernel, `W = U(W0; factors)`, and their names in a config. May import core."""

import dataclasses
from typing import Any

from hut_jax.core.errors import UserError, nearest
from hut_jax.transforms.base import Transform
from hut_jax.transforms.bitfit import BitFit
from hut_jax.transforms.dora import DoRA
from hut_jax.transforms.full import Full
from hut_jax.transforms.hira import HiRA
from hut_jax.transforms.hut import HUT
from hut_jax.transforms.ia3 import IA3
from hut_jax.transforms.layernorm import LayerNorm
from hut_jax.transforms.loha import LoHa
from hut_jax.transforms.lora import LoRA
from hut_jax.transforms.lora_plus import LoRAPlus
from hut_jax.transforms.ssf import SSF

TRANSFORMS: dict[str, type[Transform]] = {
    cls.name: cls for cls in (HUT, LoRA, LoRAPlus, DoRA, HiRA, LoHa, IA3, SSF, BitFit, LayerNorm, Full)
}
"""Every transformation by its name in a config."""


def transform_fields(name: str, **given: Any) -> dict[str, Any]:
    """The settings of the transformation called `name`: those given, and defaults for the rest.

    Raises:
        UserError: there is no such transformation, or it has no such setting.
    """
    if name not in TRANSFORMS:
        raise UserError(f"unknown transformation {name!r}; {nearest(str(name), TRANSFORMS)}")
    fields = {field.name: field.default for field in dataclasses.fields(TRANSFORMS[name])}
    for field in given:
        if field not in fields:
            raise UserError(f"{name} has no setting {field!r}; {nearest(field, fields)}")
    return fields | given


def make_transform(name: str, **settings: Any) -> Transform:
    """The transformation called `name` with these settings.

    Raises:
        UserError: there is no such transformation, it has no such setting, or a value is of the wrong type or out
            of range.
    """
    defaults, fields = transform_fields(name), transform_fields(name, **settings)
    for field, value in fields.items():
        kind = type(defaults[field])
        if kind is float and type(value) is int:
            fields[field] = float(value)
        elif type(value) is not kind:
            raise UserError(f"{name}: {field} must be a {kind.__name__} such as {defaults[field]!r}, not {value!r}")
    return TRANSFORMS[name](**fields)
