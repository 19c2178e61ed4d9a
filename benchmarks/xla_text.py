"""What devices send each other in a compiled program, read from the program's text in XLA."""

import math
import re

_PATTERN = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def count_collectives(compiled: str) -> dict[str, int]:
    """How many numbers each device receives, by the kind of collective.

    Args:
        compiled: XLA's text, `jax.jit(f).lower(...).compile().as_text()`.
    """
    numbers: dict[str, int] = {}
    for shapes, kind in _PATTERN.findall(compiled):
        for sizes in re.findall(r"\[([\d,]*)\]", shapes):
            numbers[kind] = numbers.get(kind, 0) + math.prod(int(size) for size in sizes.split(",") if size)
    return numbers
