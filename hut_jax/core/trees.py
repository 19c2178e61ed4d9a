"""Trees of dicts, and the paths of their leaves.

A path is a tuple of names. It is shown with a '/' between the names, and patterns are matched against this text. A name
may itself hold a '/', as in Flax's `WeightNorm`. So a tree can be rebuilt from the tuples, but not from the texts.
"""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

Path = tuple[str, ...]


def flatten(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """A tree of dicts as one dict from paths to leaves."""
    return traverse_util.flatten_dict(tree)


def unflatten(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """The inverse of `flatten`. A value may be a tree itself."""
    return traverse_util.unflatten_dict(flat)


def show(path: Path) -> str:
    """The path with a '/' between its names."""
    return "/".join(path)


def split(text: str) -> Path:
    """The inverse of `show`, if no name holds a '/'."""
    return tuple(text.split("/")) if text else ()


def escape(path: Path) -> str:
    """The path as `show` gives it, with '~1' for each '/' within a name and '~0' for each '~', as in RFC 6901."""
    return "/".join(name.replace("~", "~0").replace("/", "~1") for name in path)


def unescape(text: str) -> Path:
    """The inverse of `escape`."""
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in split(text))
