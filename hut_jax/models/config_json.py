"""Hugging Face's config.json, read into a dataclass with errors that a user can act on."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from hut_jax.core.errors import UserError

Ids = int | tuple[int, ...] | None  # transformers allows one end token, several or none
Names = tuple[str, ...]
Flags = tuple[int, ...]  # 0 or 1 each
Numbers = tuple[float, ...]
Count = Annotated[int, "from 0 on"]

_MOST_LABELS = 1_000_000


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(value: Any) -> bool:
    return _whole(value) and value >= 1


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _names(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(isinstance(name, str) for name in value)


def _flags(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(flag, int) and flag in (0, 1) for flag in value)


# A field's annotation -> the check of its value, and the check in words.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (_size, "a whole number of at least 1"),
    int | None: (lambda value: value is None or _size(value), "a whole number of at least 1, or null"),
    float: (_number, "a number"),
    float | None: (lambda value: value is None or _number(value), "a number, or null"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    str: (lambda value: isinstance(value, str), "a string"),
    str | None: (lambda value: value is None or isinstance(value, str), "a string, or null"),
    Count: (lambda value: _whole(value) and value >= 0, "a whole number of at least 0"),
    Names: (_names, "a list of at least one string"),
    Names | None: (lambda value: value is None or _names(value), "a list of at least one string, or null"),
    Flags: (_flags, "a list of 0 and 1"),
    Flags | None: (lambda value: value is None or _flags(value), "a list of 0 and 1, or null"),
    Numbers: (lambda value: isinstance(value, tuple) and all(map(_number, value)), "a list of numbers"),
    Ids: (
        lambda value: value is None or _whole(value) or (isinstance(value, tuple) and all(map(_whole, value))),
        "a token id, a list of token ids, or null",
    ),
}


def read_config(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """Build the dataclass `cls` from the `values` of its fields. Other values are ignored.

    Args:
        cls: a dataclass whose fields are named as in config.json. A field without a default must be given. One of
            another type than these files have is taken as it is.
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
        holds, words = _KINDS.get(field.type, (lambda value: True, ""))
        if field.name in given and not holds(given[field.name]):
            raise UserError(f"{where}: {field.name!r} must be {words}, not {values[field.name]!r}")
        if given.get(field.name) is not None and field.type in (float, float | None):
            given[field.name] = float(given[field.name])
    try:
        return cls(**given)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def default_labels(count: int) -> Names:
    """The names that transformers gives to labels without names."""
    return tuple(f"LABEL_{i}" for i in range(count))


TWO_LABELS = default_labels(2)


def read_labels(values: Mapping[str, Any], where: str) -> Names:
    """The labels' names in the order of their ids. A label without a name has transformers' default.

    Raises:
        UserError: the names or their number are not of the form that transformers writes.
    """
    named, count = values.get("id2label"), values.get("num_labels")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_LABELS):
        raise UserError(f"{where}: 'num_labels' must be a whole number of at least 1, not {count!r}")
    if named is None:
        return default_labels(count or 2)
    if not isinstance(named, dict) or not named or not all(map(_is_label, named.values())):
        raise UserError(f'{where}: \'id2label\' must map "0", "1", ... to the labels\' names, not {named!r}')
    if count not in (None, len(named)):  # the number comes first in transformers, too
        return default_labels(count)
    names = [named.get(str(i)) for i in range(len(named))]
    return tuple(
        default if name is None else str(name) for name, default in zip(names, default_labels(len(names)), strict=True)
    )


def label_fields(labels: Names) -> dict[str, Any]:
    """The fields of config.json that say these names."""
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _is_label(name: Any) -> bool:
    return name is None or isinstance(name, str | int)
