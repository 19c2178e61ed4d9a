"""What a compiled program has its devices send one another."""

import math
import re

_PATTERN = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def count_collectives(compiled: str) -> dict[str, int]:
    """The numbers that each kind of collective gives each device.

    Args:
        compiled: XLA's text, `jax.jit(f).lower(...).compile().as_text()`.
    """
    numbers: dict[str, int] = {}
    for shapes, kind in _PATTERN.findall(compiled):
        for sizes in re.findall(r"\[([\d,]*)\]", shapes):
            numbers[kind] = numbers.get(kind, 0) + math.prod(int(size) for size in sizes.split(",") if size)
    return numbers
