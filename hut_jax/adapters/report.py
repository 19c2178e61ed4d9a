"""What an adapter trains: a count, and a table of its sites."""

from collections.abc import Sequence
from dataclasses import dataclass

from hut_jax.adapters.site import Site
from hut_jax.core.trees import show


@dataclass(frozen=True)
class Count:
    """The number of trainable parameters, and of the base's parameters."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        """Trainable parameters as a percentage of the base's."""
        return 100 * self.trainable / self.total


def table(sites: Sequence[Site], count: Count) -> str:
    """A table of the sites, then the totals: path, kernel's shape, factors' shapes, trainable parameters."""
    rows = [("path", "kernel", "factors", "parameters")]
    for site in sites:
        factors = " ".join(f"{name}{_shape(shape)}" for name, shape in site.factors.items())
        rows.append((show(site.path), _shape(site.shape), factors, f"{site.count:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    lines.append(f"trainable {count.trainable:,} of {count.total:,} ({count.percent:.3f} %)")
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
