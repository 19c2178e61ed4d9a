"""Make mutants: small changes of the source, each of which a test should notice."""

import ast
import hashlib
import tomllib
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("transforms", "adapters", "training", "generation", "metrics")

ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
PAIRS = (
    "max min, maximum minimum, sum mean, argmax argmin, any all, exp log, floor ceil, zeros ones, "
    "zeros_like ones_like, sin cos, logical_and logical_or, cumsum cumprod, startswith endswith, items keys, "
    "float32 float16"
)
NAMES = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
NAMES |= {"sqrt": "square", "sorted": "list", "update": "copy", "stop_gradient": "asarray"}
BUILTINS = {"max", "min", "any", "all", "sorted"}  # a bare name is swapped only where it is one of these
SYMMETRIC = {"max", "min", "maximum", "minimum", "gcd", "wide"}  # their arguments may change places
NOT_VALUES = {"__repr__", "__str__", "__dir__"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        file: from the root of the repository.
        line: where the change starts.
        statement: the first and the last line of the statement, without its body.
        column: what tells apart the mutants of a line by the same operator.
        operator: the kind of change.
        before: the source lines of the change, stripped and joined.
        after: the same lines with the change.
        start: the change's first byte; `end`: the byte after its last.
        text: what stands there instead.
    """

    file: str
    line: int
    statement: tuple[int, int]
    column: int
    operator: str
    before: str
    after: str
    start: int
    end: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}:{self.column}:{self.operator}"

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.file}:{self.line}: {self.before} (unchanged)"
        before, after = (text if len(text) <= 110 else text[:107] + "..." for text in (self.before, self.after))
        return f"{self.file}:{self.line}: {before}  ->  {after}"


def make_mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a source. Offsets are bytes, as `ast` counts columns."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    mutants = []
    for statement, ((line, column, last_line, last_column), at, operator, text) in _walk(ast.parse(source)):
        start, end = starts[line - 1] + column, starts[last_line - 1] + last_column
        whole = slice(starts[line - 1], starts[last_line])
        before = source[whole]
        after = source[whole.start : start] + text.encode() + source[end : whole.stop]
        shown = [" ".join(part.decode().split()) for part in (before, after)]
        mutants.append(Mutant(file, line, statement, at, operator, *shown, start, end, text))
    return mutants


def sample(mutants: list[Mutant], lines: dict[str, int], count: int, seed: int) -> list[Mutant]:
    """About `count` mutants, in the order of the source: for each folder a share by its lines, and 40 at the least.

    One mutant a line is drawn before a second one of any line, so no long line weighs more than its share. What is
    drawn depends on the text of a line and not on its number, so a change elsewhere leaves the sample almost as it was.
    """

    def draw(mutant: Mutant) -> str:
        key = f"{seed} {mutant.file} {mutant.operator} {mutant.before} {mutant.after} {mutant.column}"
        return hashlib.sha256(key.encode()).hexdigest()

    drawn: list[Mutant] = []
    for folder, length in lines.items():
        seen: Counter[tuple[str, int]] = Counter()
        ranked = []
        own = sorted((mutant for mutant in mutants if folder_of(mutant.file) == folder), key=lambda one: one.start)
        for mutant in sorted(own, key=draw):  # two lines of one text are drawn in their order
            ranked.append((seen[mutant.file, mutant.line], len(ranked), mutant))
            seen[mutant.file, mutant.line] += 1
        share = max(round(count * length / sum(lines.values())), min(40, count // len(lines)))
        drawn += [mutant for *_, mutant in sorted(ranked, key=lambda entry: entry[:2])[:share]]
    return sorted(drawn, key=lambda mutant: (mutant.file, mutant.start, mutant.operator))


def folder_of(file: str) -> str:
    return file.split("/")[1]


def read_equivalents(path: Path) -> dict[tuple[str, str, str], str]:
    """Mutants that change nothing a test could see: (file, before, after) -> the reason."""
    entries = tomllib.loads(path.read_text()).get("mutant", [])
    return {(entry["file"], entry["before"], entry["after"]): entry["reason"] for entry in entries}


Change = tuple[tuple[int, int, int, int], int, str, str]  # (span, column of the id, operator, text)


def _walk(
    node: ast.AST, statement: tuple[int, int] = (0, 0), in_function: bool = False
) -> Iterator[tuple[tuple[int, int], Change]]:
    """The changes of a node and of what is in it, each with the lines of its statement."""
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        statement = node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
    for change in _changes(node, in_function):
        yield statement, change
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in _children(node):
        yield from _walk(child, statement, inside)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What to look into: no annotations, decorators, imports, messages, docstrings, nor what only types need."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Raise() | ast.Expr(ast.Constant()):
            return
        case ast.If(ast.Name("TYPE_CHECKING") | ast.Compare(ast.Name("__name__"))):
            return
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            if name not in NOT_VALUES:
                yield from (default for default in [*node.args.defaults, *node.args.kw_defaults] if default)
                yield from node.body
        case ast.ClassDef():
            yield from node.body
        case ast.AnnAssign(value=value):
            yield from [value] if value else []
        case ast.Call(ast.Name("isinstance" | "issubclass")):
            yield from node.args[:1]
        case ast.Call(ast.Name("cast")):
            yield from node.args[1:]
        case ast.Call(ast.Name("zip")):  # strict=True guards against ourselves
            yield from node.args
        case _:
            yield from ast.iter_child_nodes(node)


def _span(node: ast.AST) -> tuple[int, int, int, int]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def _with(node: ast.AST, **fields: object) -> str:
    """The expression with other fields, in parentheses."""
    changed = copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return f"({ast.unparse(changed)})"


def _changes(node: ast.AST, in_function: bool) -> Iterator[Change]:
    """The changes of this very node."""

    def change(operator: str, text: str, target: ast.AST = node, at: ast.AST = node) -> Change:
        return _span(target), at.col_offset, operator, text

    match node:
        case ast.BinOp(left, ast.MatMult(), right):
            yield change("arithmetic", _with(node, left=right, right=left))
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC and not any(map(_is_text, (left, right))):
            if in_function or not isinstance(op, ast.BitOr):  # else a union of types
                yield change("arithmetic", _with(node, op=ARITHMETIC[type(op)]()), at=right)
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                swapped = [*ops[:i], COMPARISONS[type(op)](), *ops[i + 1 :]]
                yield change("comparison", _with(node, ops=swapped), at=comparators[i])
            for side in (left, *comparators):
                if isinstance(side, ast.Constant) and isinstance(side.value, str):
                    yield change("option", repr(side.value + "_other"), side, side)
        case ast.BoolOp(op, values):
            yield change("and/or", _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And()), at=values[1])
        case ast.UnaryOp(ast.Not(), operand):
            yield change("not", f"({ast.unparse(operand)})")
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield change("sign", f"({ast.unparse(operand)})")
        case ast.If(test) | ast.IfExp(test):
            yield from [change("condition", f"(not ({ast.unparse(test)}))", test, test)] if _is_negatable(test) else []
        case ast.comprehension(ifs=ifs):
            for test in filter(_is_negatable, ifs):
                yield _span(test), test.col_offset, "condition", f"(not ({ast.unparse(test)}))"
        case ast.Constant(bool(value)):
            yield change("constant", str(not value))
        case ast.Constant(int(value) | float(value)):
            yield change("constant", "0" if value == 1 and isinstance(value, int) else repr(value + 1))
        case ast.Return(None) | ast.Return(ast.Constant(None | True | False)):  # a constant has its own change
            pass
        case ast.Return():
            yield change("return", "return None")
        case ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Expr(ast.Call()):
            yield change("delete", "pass")
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield change("delete", "pass")
        case ast.Assign([ast.Name(name)], value) if any(
            isinstance(part, ast.Name) and part.id == name for part in ast.walk(value)
        ):
            yield change("delete", "pass")
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in NAMES:
            (_, _, line, end), length = _span(node), len(name.encode())
            yield (line, end - length, line, end), end - length, "function", NAMES[name]
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Name) and name in BUILTINS:
            yield change("function", NAMES[name], node.func, node.func)
        for first, second in zip(node.args, node.args[1:], strict=False):
            match first, second:
                case ast.Name(a), ast.Name(b) if a != b and name not in SYMMETRIC:
                    span = (*_span(first)[:2], *_span(second)[2:])
                    yield span, first.col_offset, "arguments", f"{b}, {a}"


def _is_text(node: ast.AST) -> bool:
    """Whether this is a string, a list or a tuple, or None in a union: other arithmetic is an error at once."""
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple) or (
        isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str))
    )


def _is_negatable(test: ast.AST) -> bool:
    """Whether no other operator negates this condition."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return False
    flips = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
    return not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], flips))
