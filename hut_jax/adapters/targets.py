"""The patterns that choose an adapter's sites. They are searched in '/'-joined paths."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from hut_jax.core.errors import UserError, nearest
from hut_jax.core.trees import Path, show

Patterns = str | Iterable[str] | None
Rules = Mapping[str, Any] | Sequence[tuple[str, Any]]

Given = TypeVar("Given")
Kept = TypeVar("Kept")

ALL_LINEAR = "all-linear"
"""The pattern that matches every path."""


def as_patterns(patterns: Patterns) -> tuple[str, ...]:
    """One pattern, several or none, as a tuple.

    Raises:
        UserError: one is not a regular expression.
    """
    if patterns is not None and not isinstance(patterns, Iterable):
        raise UserError(
            f"{patterns!r} is no pattern, which is a text: the order is Adapter(transform, targets, exclude=...)"
        )
    several = () if patterns is None else (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in several:
        _check(pattern)
    return several


def as_rules(rules: Rules) -> tuple[tuple[str, Any], ...]:
    """Pairs of a pattern and a value, in order, from pairs or from a mapping.

    Raises:
        UserError: a pattern is not a regular expression.
    """
    pairs = list(rules.items()) if isinstance(rules, Mapping) else rules
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise UserError(f"{rules!r} are not pairs of a pattern and a value, such as (('mlp/', 4),)")
    for pattern, _ in pairs:
        _check(pattern)
    return tuple((pattern, value) for pattern, value in pairs)


class Converted(Generic[Given, Kept]):
    """A dataclass's field that is given in one type and kept in another, converted when it is set.

    Args:
        convert: from what is given to what is kept.
        default: as it would be given.
    """

    def __init__(self, convert: Callable[[Given], Kept], default: Given):
        self._convert, self._default = convert, convert(default)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Kept:
        return self._default if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Given) -> None:
        instance.__dict__[self._name] = self._convert(value)


PatternsField = Converted[Patterns, tuple[str, ...]]
RulesField = Converted[Rules, tuple[tuple[str, Any], ...]]


class Candidate(NamedTuple):
    """A kernel that patterns may choose.

    Attributes:
        path: by which the site is known: the module's path for a parameter called `kernel`, else the parameter's own.
        leaf: the parameter's path.
        linear: whether "all-linear" takes it.
        by_module: whether the name of its module is enough to choose it.
    """

    path: Path
    leaf: Path
    linear: bool = True
    by_module: bool = True


def match(candidates: Sequence[Candidate], targets: Sequence[str], exclude: Sequence[str]) -> list[Candidate]:
    """The candidates that a target pattern matches and no excluding pattern does, in their order.

    Raises:
        UserError: a pattern matches no path, or the excluding ones leave none.
    """
    paths = [one.path for one in candidates]
    chosen: set[Candidate] = set()
    for pattern in targets:
        found = _found(pattern, candidates)
        if not found:
            raise UserError(f"target pattern {pattern!r} matches no path; {nearest_path(pattern, paths)}")
        chosen.update(found)
    for pattern in exclude:
        found = [one for one in candidates if pattern == ALL_LINEAR or matches(pattern, one.path, one.leaf)]
        if not found:
            raise UserError(f"exclude pattern {pattern!r} matches no path; {nearest_path(pattern, paths)}")
        chosen.difference_update(found)
    if not chosen:
        raise UserError(f"exclude {list(exclude)} removes every path that targets {list(targets)} match")
    return [one for one in candidates if one in chosen]


def match_named(candidates: Sequence[Candidate], targets: Sequence[str]) -> set[Candidate]:
    """The candidates that a pattern other than "all-linear" matches."""
    return {one for pattern in targets if pattern != ALL_LINEAR for one in _found(pattern, candidates)}


def match_default(candidates: Sequence[Candidate], defaults: Sequence[str]) -> tuple[str, ...]:
    """The first of the default patterns that matches a path, as the targets.

    Raises:
        UserError: none does.
    """
    for pattern in defaults:
        if _found(pattern, candidates):
            return (pattern,)
    raise UserError(
        "no default targets fit this model; give targets=, a pattern over its paths: "
        f"{some([one.path for one in candidates])}"
    )


def match_modules(leaves: Sequence[Path], patterns: Sequence[str]) -> dict[Path, bool]:
    """The parameters of the modules whose paths a pattern matches, in their order, and whether one names it alone.

    A pattern that spells a parameter's whole path, such as `layer_0/mlp/up/bias`, names this parameter alone.

    An embedding table may be tied to the head, which then trains with it. So an embedding is matched only by a pattern
    that spells the whole path of its module, `token_embedding` or `^token_embedding$`, and not by `embed` or `.*`.

    Raises:
        UserError: a pattern matches no module's path.
    """
    modules = {leaf: show(leaf[:-1]) for leaf in leaves}
    chosen: dict[Path, bool] = {}
    for pattern in patterns:
        spelled = pattern.removeprefix("^").removesuffix("$")
        alone = [leaf for leaf in leaves if spelled in (show(leaf), re.escape(show(leaf)))]
        if alone:
            chosen.update(dict.fromkeys(alone, True))
            continue
        found = [leaf for leaf, module in modules.items() if re.search(pattern, module)]
        taken = [
            leaf for leaf in found if leaf[-1] != "embedding" or spelled in (modules[leaf], re.escape(modules[leaf]))
        ]
        if not taken:
            tables = sorted({leaf[:-1] for leaf in leaves if leaf[-1] == "embedding"})
            hint = (
                f"; an embedding, to which a head may be tied, must be named in full: {some(tables)}" if tables else ""
            )
            raise UserError(
                f"also_train pattern {pattern!r} matches no module; "
                f"{nearest_path(pattern, sorted({leaf[:-1] for leaf in leaves} - {*tables, ()}))}{hint}"
            )
        chosen.update({leaf: chosen.get(leaf, False) for leaf in taken})
    return {leaf: chosen[leaf] for leaf in leaves if leaf in chosen}


def nearest_path(pattern: str, paths: Sequence[Path]) -> str:
    """As `errors.nearest`, for a pattern. A pattern of n parts is compared with the last n parts of each path."""
    parts = pattern.count("/") + 1
    endings = {show(path[-parts:]): show(path) for path in reversed(paths)}
    close = difflib.get_close_matches(re.sub(r"[^\w/]", "", pattern), endings, cutoff=0.5)
    return (
        "did you mean " + ", ".join(repr(endings[end]) for end in close) + "?"
        if close
        else nearest("", map(show, paths))
    )


def matches(pattern: str, path: Path, leaf: Path) -> bool:
    """Whether a pattern is found in a site's path or in its parameter's."""
    return bool(re.search(pattern, show(path)) or re.search(pattern, show(leaf)))


def first_match(rules: Iterable[tuple[str, Any]], path: Path, leaf: Path) -> Any | None:
    """The value of the first (pattern, value) whose pattern matches the site; None if none does."""
    return next((value for pattern, value in rules if matches(pattern, path, leaf)), None)


def _found(pattern: str, candidates: Iterable[Candidate]) -> list[Candidate]:
    if pattern == ALL_LINEAR:
        return [one for one in candidates if one.linear]
    return [one for one in candidates if _chooses(pattern, one)]


def _chooses(pattern: str, one: Candidate) -> bool:
    """Whether a target pattern chooses this candidate.

    A pattern over a path further up, such as `layer_0`, means the kernels there and no table or other matrix. These
    are chosen by their own names or their modules'.
    """
    if one.linear and one.by_module:
        return matches(pattern, one.path, one.leaf) or bool(re.search(pattern, show(one.leaf[:-1])))
    if re.search(pattern, ""):
        return False
    from_here = one.leaf[:-2] if one.by_module else one.leaf[:-1]
    start = len(show(from_here)) + 1 if from_here else 0
    texts = [show(one.leaf)] + [show(one.leaf[:-1])] * one.by_module
    return any(found.end() > start for text in texts for found in re.finditer(pattern, text))


def _check(pattern: str) -> None:
    if not isinstance(pattern, str):
        raise UserError(f"a pattern is a text, a regular expression over paths, and one is a {type(pattern).__name__}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is not a regular expression: {error}") from None


def some(paths: Sequence[Path]) -> str:
    """The first six of the paths, as they are shown in messages."""
    return ", ".join(repr(show(path)) for path in paths[:6]) + (", ..." if len(paths) > 6 else "")
