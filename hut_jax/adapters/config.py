"""The section `config.adapter`: the settings of a transformation, and the fields that every adapter has."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import Field, InstanceOf

from hut_jax.adapters.adapter import Adapter
from hut_jax.core.sections import build, defaults, fields_of, section
from hut_jax.transforms import HUT, TRANSFORMS, Transform, make_transform, transform_fields


@section
class AdapterConfig:
    """What trains: a transformation, and the sites it acts on."""

    transform: InstanceOf[Transform] = Field(default=HUT(), description=f"the transformation: {', '.join(TRANSFORMS)}")
    targets: tuple[str, ...] = Field(
        default=(), description="patterns of the sites' paths; none: the transformation's defaults for the model"
    )
    exclude: tuple[str, ...] = Field(default=(), description="patterns of paths to leave alone")
    ranks: tuple[tuple[str, int], ...] = Field(
        default=(),
        examples=[(("mlp/", 4),)],
        description="(pattern, rank) pairs; sites whose path matches a pattern have this rank instead of adapter.rank",
    )
    layout: tuple[tuple[str, str], ...] = Field(
        default=(),
        examples=[(("^layers/", "lio"),)],
        description="(pattern, axes) pairs for kernels with unclear axes; 'axes' spells one letter for each axis, in "
        "the order of the axes: l for stacked layers, i for inputs, o for outputs",
    )
    also_train: tuple[str, ...] = Field(
        default=(), description="patterns of modules that train in full beside the factors, such as a new head"
    )
    start: str = Field(
        default="",
        description="the folder or hub name of an adapter to start from; the modules of also_train still start anew",
    )

    def __post_init__(self):
        self.make_adapter()  # for its errors

    def make_adapter(self) -> Adapter:
        """The adapter.

        Raises:
            UserError: a pattern is no regular expression, a rank or a layout is none, or ranks are given to a
                transformation without one.
        """
        own = {field.name for field in fields(self)}
        return Adapter(**{field.name: getattr(self, field.name) for field in fields(Adapter) if field.name in own})

    @property
    def name(self) -> str:
        """The name of the transformation."""
        return self.transform.name

    def to_fields(self) -> dict[str, Any]:
        """The fields as in a config, with the transformation's settings beside the others."""
        own = {name: getattr(self, name) for name in OWN_FIELDS}
        return {"name": self.name, **asdict(self.transform), **own}


OWN_FIELDS = tuple(name for name in fields_of(AdapterConfig) if name != "transform")
"""The fields that an adapter of any transformation has."""


DEFAULT = defaults(AdapterConfig)["transform"].name
"""The default transformation."""


def default_fields(name: str = DEFAULT, **settings: Any) -> dict[str, Any]:
    """The fields of `config.adapter` for the transformation `name`: these settings, and defaults for all others.

    Raises:
        UserError: there is no such transformation, or it has no such setting.
    """
    own = defaults(AdapterConfig)
    return {"name": name, **transform_fields(name, **settings), **{field: own[field] for field in OWN_FIELDS}}


def from_fields(values: Mapping[str, Any]) -> AdapterConfig:
    """The inverse of `AdapterConfig.to_fields`.

    Raises:
        UserError: a field is unknown, or its value is wrong.
    """
    own = {name: value for name, value in values.items() if name in OWN_FIELDS}
    settings = {name: value for name, value in values.items() if name not in ("name", *OWN_FIELDS)}
    transform = make_transform(values["name"], **settings)
    return build(AdapterConfig, {"transform": transform, **own}, "config.adapter")
