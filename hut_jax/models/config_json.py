"""Hugging Face's config.json, read into a dataclass with errors that a user can act on."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from hut_jax.core.errors import UserError

Ids = int | tuple[int, ...] | None  # transformers allows one end token, several or none
Names = tuple[str, ...]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(value: Any) -> bool:
    return _whole(value) and value >= 1


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# A field's annotation -> the check of its value, and the check in words.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (_size, "a whole number of at least 1"),
    int | None: (lambda value: value is None or _size(value), "a whole number of at least 1, or null"),
    float: (_number, "a number"),
    float | None: (lambda value: value is None or _number(value), "a number, or null"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "a string"),
    str | None: (lambda value: value is None or isinstance(value, str), "a string, or null"),
    Names: (
        lambda value: isinstance(value, tuple) and len(value) > 0 and all(isinstance(name, str) for name in value),
        "a list of at least one string",
    ),
    Ids: (
        lambda value: value is None or _whole(value) or (isinstance(value, tuple) and all(map(_whole, value))),
        "a token id, a list of token ids, or null",
    ),
}


def read_config(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """Build the dataclass `cls` from the `values` of its fields. Other values are ignored.

    Args:
        cls: a dataclass whose fields are named as in config.json. A field without a default must be given.
        values: the parsed config.json.
        where: the name of config.json in an error, such as its path.

    Raises:
        UserError: a field is missing or of the wrong kind, or `cls` itself refuses the values.
    """
    fields = dataclasses.fields(cls)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise UserError(f"{where}: missing {', '.join(map(repr, missing))}")
    given = {f.name: values[f.name] for f in fields if f.name in values}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for field in fields:
        holds, words = _KINDS[field.type]
        if field.name in given and not holds(given[field.name]):
            raise UserError(f"{where}: {field.name!r} must be {words}, not {values[field.name]!r}")
        if given.get(field.name) is not None and field.type in (float, float | None):
            given[field.name] = float(given[field.name])
    try:
        return cls(**given)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
