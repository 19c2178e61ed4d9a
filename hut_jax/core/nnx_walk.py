"""Walk over a model of NNX: which module holds which Variable, and where."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flax import nnx

from hut_jax.core.trees import Path

_OWN = "_pytree__"
"""How the names of NNX's own attributes begin."""


class Held(NamedTuple):
    """A Variable, and one place where it is held.

    Attributes:
        variable: the Variable.
        module: the innermost module around it that has names for its parts.
        path: that module's path.
        within: the Variable's path within it; longer than one name if it lies in a dict or a list.
    """

    variable: nnx.Variable
    module: nnx.Module
    path: Path
    within: Path


def modules(model: nnx.Module) -> Iterator[tuple[Path, nnx.Pytree]]:
    """Every module of the model once, with its first path. A parent comes before its children."""
    seen: set[int] = set()

    def walk(path: Path, value: Any) -> Iterator[tuple[Path, nnx.Pytree]]:
        if isinstance(value, nnx.Pytree):
            if id(value) in seen:
                return
            seen.add(id(value))
            yield path, value
        for name, child in children(value):
            yield from walk((*path, name), child)

    yield from walk((), model)


def variables(model: nnx.Module) -> Iterator[Held]:
    """Every place of the model that holds a Variable."""

    def within(path: Path, value: Any) -> Iterator[tuple[Path, nnx.Variable]]:
        if isinstance(value, nnx.Variable):
            yield path, value
        elif not isinstance(value, nnx.Pytree) or not path or _is_list(value):
            for name, child in children(value):
                yield from within((*path, name), child)

    for path, module in modules(model):
        if isinstance(module, nnx.Module) and not _is_list(module):
            for inner, variable in within((), module):
                yield Held(variable, module, path, inner)


def _is_list(value: Any) -> bool:
    """Whether this is a module with numbers for names, as `nnx.List`. No attribute with a name can be added to it."""
    return getattr(value, "_pytree__has_int_keys", False)


def children(value: Any) -> list[tuple[str, Any]]:
    """The parts of a module, a dict or a list, in the order in which NNX visits them."""
    if isinstance(value, nnx.Variable):
        return []
    if isinstance(value, nnx.Pytree):
        return sorted((name, child) for name, child in vars(value).items() if not name.startswith(_OWN))
    if isinstance(value, dict):
        return [(str(name), value[name]) for name in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [(str(index), child) for index, child in enumerate(value)]
    return []


def rebuilt(value: Any, change: Callable[[Path, nnx.Variable], nnx.Variable], path: Path = ()) -> Any:
    """A container or a Variable, with each Variable changed. A container without a change is the same object."""
    if isinstance(value, nnx.Variable):
        return change(path, value)
    if isinstance(value, dict):
        items = {name: rebuilt(child, change, (*path, str(name))) for name, child in value.items()}
        return value if all(items[name] is value[name] for name in value) else type(value)(items)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        parts = [rebuilt(child, change, (*path, str(index))) for index, child in enumerate(value)]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    if _is_list(value):
        changed = {name: rebuilt(child, change, (*path, name)) for name, child in children(value)}
        if all(changed[name] is vars(value)[name] for name in changed):
            return value
        twin = object.__new__(type(value))
        vars(twin).update(vars(value) | changed)
        return twin
    return value
