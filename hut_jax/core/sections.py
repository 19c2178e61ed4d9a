"""Typed sections of a config: frozen dataclasses that know the default, meaning and range of each field.

A section is written as

    @section
    class LogConfig:
        "What is logged."

        every: int = Field(default=50, ge=1, description="steps between two lines of metrics.jsonl")

pydantic validates it, and `build` turns pydantic's errors into a `UserError` of one line.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast, dataclass_transform, get_args, get_origin

import annotated_types
import pydantic
from pydantic import Field
from pydantic.fields import FieldInfo

from hut_jax.core.errors import UserError, nearest, one_line

T = TypeVar("T")

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Refuse unknown fields, floats that are not finite, and every conversion except from int to float."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def section(cls: type[T]) -> type[T]:
    """Make a class a section: a frozen, validated dataclass with keyword arguments only."""
    return cast(type[T], pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=STRICT))


def fields_of(section: Any) -> dict[str, FieldInfo]:
    """The fields of a section by name, in their order."""
    return section.__pydantic_fields__


def defaults(section: type) -> dict[str, Any]:
    """The default of every field."""
    return {name: info.default for name, info in fields_of(section).items()}


def build(section: type[T], fields: Mapping[str, Any], name: str) -> T:
    """Make a section from the values of its fields.

    Args:
        section: the class.
        fields: the values by field.
        name: the section's name in messages, such as "config.train".

    Raises:
        UserError: a field is unknown or missing, or its value has the wrong type or is out of range.
    """
    try:
        return section(**fields)
    except pydantic.ValidationError as error:
        raise UserError(_message(error, section, fields, name)) from None


def meaning(info: FieldInfo) -> str:
    """The meaning of a field and its valid values, as in "examples of a step (at least 1)"."""
    limits = _choices(info.annotation) if get_origin(info.annotation) is Literal else _bounds(info)
    return f"{info.description} ({limits})" if limits else str(info.description)


def attributes(cls: type) -> dict[str, str]:
    """The descriptions under "Attributes:" in the docstrings of a class and its bases, by name."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        part = re.search(r"^Attributes:\n((?: .*\n?)+)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", part[1] if part else "", re.MULTILINE)
        found |= {name: " ".join(text.split()).rstrip(".") for name, text in entries}
    return found


def _message(error: pydantic.ValidationError, section: type, fields: Mapping[str, Any], name: str) -> str:
    """The first of the errors, in one line."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # from the section's own check of several fields
        return str(cause)
    known = fields_of(section)
    field = str(first["loc"][0]) if first["loc"] else ""
    if field not in fields and field in known:
        return f"{name}.{field} is missing"
    if field not in known:
        return f"unknown field {name}.{field}; {nearest(field, known)}" if field else f"{name}: {one_line(error)}"
    value, info = fields[field], known[field]
    if first["type"] == "literal_error":
        return f"{name}.{field} is {value!r}; {nearest(str(value), map(str, get_args(info.annotation)))}"
    if first["type"] == "finite_number":
        return f"{name}.{field} is {value}; it must be finite"
    out_of_range = first["type"].startswith(("greater_than", "less_than"))
    wanted = _bounds(info) if out_of_range else _kind(info.annotation)
    example = f", such as {info.examples[0]!r}" if info.examples and not out_of_range else ""
    return f"{name}.{field} is {value!r}; it must be {wanted}{example}"


def _bounds(info: FieldInfo) -> str:
    """The range of a number, such as "at least 0 and below 1"; empty if it has none."""
    bounds = []
    for bound in info.metadata:
        match bound:
            case annotated_types.Ge(ge=low):
                bounds.append("0 or more" if low == 0 else f"at least {_number(low)}")
            case annotated_types.Gt(gt=low):
                bounds.append(f"above {_number(low)}")
            case annotated_types.Lt(lt=high):
                bounds.append(f"below {_number(high)}")
            case annotated_types.Le(le=high):
                bounds.append(f"at most {_number(high)}")
    if len(bounds) > 1:
        bounds = [bound.replace("0 or more", "at least 0") for bound in bounds]
    return " and ".join(bounds)


def _choices(annotation: Any) -> str:
    """The values of a Literal, such as "'a', 'b' or 'c'"."""
    *others, last = map(repr, get_args(annotation))
    return f"{', '.join(others)} or {last}" if others else last


def _number(bound: Any) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
_SEVERAL = {int: "whole numbers", float: "numbers", str: "texts"}


def _kind(annotation: Any) -> str:
    """A phrase for the values of this type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _choices(annotation)
    if origin is tuple and arguments[1:] == (...,):
        item = arguments[0]
        pair = get_args(item)
        if pair:
            return f"pairs of {_NAMES[pair[0]]} and {_NAMES[pair[1]]}"
        return f"a tuple of {_SEVERAL[item]}"
    return _NAMES.get(annotation) or f"a {getattr(annotation, '__name__', annotation)}"
