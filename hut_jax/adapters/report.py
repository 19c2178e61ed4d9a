"""What an adapter trains: a count, and a table of its sites."""

from collections.abc import Sequence
from dataclasses import dataclass

from hut_jax.adapters.site import Site
from hut_jax.adapters.targets import some
from hut_jax.core.trees import Path, show
from hut_jax.transforms import Transform


@dataclass(frozen=True)
class Count:
    """The number of trainable parameters, and of the base's parameters."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        """Trainable parameters as a percentage of the base's."""
        return 100 * self.trainable / self.total


def table(sites: Sequence[Site], count: Count, transform: Transform, left_out: Sequence[Path] = ()) -> str:
    """A table of the sites, then the totals and what is left out.

    Its columns: path, the kernel's shape and axes (as in `layout`), the factors' shapes, trainable parameters.

    Args:
        sites: the adapter's.
        count: of all their trainable parameters.
        transform: the adapter's.
        left_out: the kernels that "all-linear" leaves out, since their axes cannot be told.
    """
    rows = [("path", "kernel", "axes", "factors", "parameters")]
    for site in sites:
        factors = " ".join(f"{name}{_shape(shape)}" for name, shape in site.factors.items())
        axes = "" if site.layout is None else site.layout.letters
        rows.append((show(site.path) or show(site.kernel), _shape(site.shape), axes, factors, f"{site.count:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]) for row in rows]
    lines.append(f"trainable {count.trainable:,} of {count.total:,} ({count.percent:.3f} %)")
    if getattr(transform, "shift", False):
        without = [site.path for site in sites if site.layout is not None and not site.has_bias]
        if without:
            lines.append(f"no shift, for want of a bias, at {len(without)} of {len(sites)}: {some(without)}")
    if left_out:
        lines.append(f"left out, for want of a layout=, {len(left_out)}: {some(left_out)}")
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
