"""The metadata of a GGUF file, read with errors that name the file and the field."""

import math
from typing import Any

import numpy as np

from hut_jax.core.errors import UserError
from hut_jax.models.gguf.header import Header

_MISSING = object()


class Fields:
    """The metadata of one file. Names without a dot in front are those of the architecture.

    Attributes:
        header: of the file.
        architecture: llama.cpp's name of the model's architecture.
    """

    def __init__(self, header: Header):
        """Read the architecture.

        Raises:
            UserError: the file names none.
        """
        self.header = header
        self.architecture = ""
        self.architecture = self.text(".general.architecture")

    def whole(self, name: str, default: Any = _MISSING, least: int = 1) -> int:
        """A whole number of at least `least`. An array of one value for all layers is that value.

        Raises:
            UserError: it is missing and there is no default, or it is something else.
        """
        value = self._value(name, default)
        if isinstance(value, np.ndarray) and len(set(value.tolist())) == 1:
            value = value[0].item()
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, f"a whole number of at least {least}, the same for all layers", value)
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        """A finite number: the shortest decimal that is this one in float32, which the file has.

        Raises:
            UserError: as `whole` does.
        """
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(name, "a number", value)
        return float(str(np.float32(value)))

    def text(self, name: str, default: Any = _MISSING) -> str:
        """A text.

        Raises:
            UserError: as `whole` does.
        """
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            UserError: it is something else.
        """
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts.

        Raises:
            UserError: as `whole` does.
        """
        value = self._value(name, _MISSING)
        if not isinstance(value, list):
            raise self.wrong(name, "a list of texts", value)
        return value

    def numbers(self, name: str, count: int) -> list[Any]:
        """A list of `count` numbers.

        Raises:
            UserError: as `whole` does.
        """
        value = self._value(name, _MISSING)
        if not isinstance(value, np.ndarray) or len(value) != count:
            raise self.wrong(name, f"a list of {count} numbers", value)
        return value.tolist()

    def has(self, name: str) -> bool:
        """Whether the file has the field."""
        return self._key(name) in self.header.fields

    def error(self, message: str) -> UserError:
        """An error that names the file."""
        return UserError(f"{self.header.path}: {message}")

    def wrong(self, name: str, words: str, value: Any) -> UserError:
        """The error on a field that should be something else."""
        shown = "a list" if isinstance(value, list | np.ndarray) else repr(value)
        return self.error(f"{self._key(name)} must be {words}, not {shown}")

    def _key(self, name: str) -> str:
        return name[1:] if name.startswith(".") else f"{self.architecture}.{name}"

    def _value(self, name: str, default: Any) -> Any:
        value = self.header.fields.get(self._key(name), default)
        if value is _MISSING:
            raise self.error(f"its metadata lack {self._key(name)}")
        return value
