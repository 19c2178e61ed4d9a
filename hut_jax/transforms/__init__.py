"""The transformations of a frozen kernel, and how a config names them."""

import dataclasses
from typing import Any

from hut_jax.errors import UserError, nearest
from hut_jax.transforms.base import Factors, Transform
from hut_jax.transforms.full import Full
from hut_jax.transforms.hut import HUT

TRANSFORMS: dict[str, type[Transform]] = {cls.name: cls for cls in (HUT, Full)}
"""Every transformation by the name a config gives it."""


def transform_fields(name: str) -> dict[str, Any]:
    """The settings of the transformation called `name`, with their defaults.

    Raises:
        UserError: there is no such transformation.
    """
    if name not in TRANSFORMS:
        raise UserError(f"unknown transformation {name!r}; {nearest(name, TRANSFORMS)}")
    return {field.name: field.default for field in dataclasses.fields(TRANSFORMS[name])}


def make_transform(name: str, **fields: Any) -> Transform:
    """The transformation called `name` with these settings.

    Raises:
        UserError: there is no such transformation, or it has no such setting.
    """
    valid = transform_fields(name)
    for field in fields:
        if field not in valid:
            raise UserError(f"{name} has no setting {field!r}; {nearest(field, valid)}")
    return TRANSFORMS[name](**fields)


__all__ = ["HUT", "TRANSFORMS", "Factors", "Full", "Transform", "make_transform", "transform_fields"]
