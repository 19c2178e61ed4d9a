"""The picture of HUT's transformation: M_A and M_B spread over W0, and W.

    python -m experiments.transformation --output=docs/pictures/transformation.svg

The kernel is small, and its numbers are drawn at random. The library computes W. The picture brings its background,
light or dark as the reader's system asks.
"""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from hut_jax.core import cli
from hut_jax.core.files import write_text
from hut_jax.transforms.spread import spread_product

D, K, RANK = 6, 9, 3
ENTRY = (3, 7)
"""The entry of W that the formula is about; what it is made of is framed in every matrix."""
CELL = 17
PAGE = (620, 492)
LEFT, MIDDLE, RIGHT = 34, (PAGE[0] - K * CELL) // 2, PAGE[0] - 34 - K * CELL
"""Where the columns of matrices begin, from the left."""
TOP, CENTRE, BOTTOM = 26, 196, 336
"""Where the rows of matrices begin, from above."""
BLUE, ORANGE = (0.4, "#ffffff", "#a6cbe6", "#0072B2"), (0.4, "#ffffff", "#f2bb93", "#D55E00")
"""The smallest number of M_A and of M_B, and its colour, that of 1 and that of the largest."""
WEIGHTS = (-1.3, "#8a3f8f", "#f4f4f4", "#009E73")
"""The same for weights, with 0 in the middle."""
FORMULA = "W[i, j] = M_A[i, j // (k/r)] · W0[i, j] · M_B[i // (d/r), j]"
STYLE = """
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 19px; fill: #1f2328; }
  .small { font-size: 16px; fill: #57606a; }
  .sign { font-size: 26px; }
  .page { fill: #ffffff; stroke: #d0d7de; }
  .cells { stroke: #8c959f; stroke-width: 0.5; }
  .group { fill: none; stroke: #1f2328; stroke-width: 1.5; }
  .entry { fill: none; stroke: #1f2328; stroke-width: 3; }
  .arrow { stroke: #57606a; stroke-width: 2; }
  .head { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #b1bac4; }
    .page { fill: #0d1117; stroke: #3d444d; }
    .arrow { stroke: #b1bac4; }
    .head { fill: #b1bac4; }
  }
"""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.transformation", __doc__ or "")
    parser.add_argument("--output", required=True, metavar="FILE", help="the picture, an SVG")
    write_text(Path(parser.parse_args(argv).output), picture())
    return 0


def picture() -> str:
    """The SVG."""
    random = np.random.default_rng(2)
    rows, columns = random.uniform(0.4, 1.6, (D, RANK)), random.uniform(0.4, 1.6, (RANK, K))
    kernel = random.uniform(-1, 1, (D, K))
    new_kernel = np.asarray(spread_product("block", *map(jnp.asarray, (kernel, rows, columns))))

    width, height, wide, high = K * CELL, D * CELL, K // RANK, D // RANK
    i, j = ENTRY
    p, q = i // high, j // wide
    row_of_b = TOP + height - RANK * CELL
    parts = [
        matrix(LEFT, TOP, rows, BLUE, (i, q)),
        text(LEFT + RANK * CELL + 14, TOP + 44, "M_A: [d, r]"),
        text(LEFT + RANK * CELL + 14, TOP + 66, "trains", "small"),
        matrix(RIGHT, row_of_b, columns, ORANGE, (p, j)),
        text(RIGHT, row_of_b - 32, "M_B: [r, k]"),
        text(RIGHT, row_of_b - 11, "trains", "small"),
        arrow(LEFT + RANK * CELL / 2, TOP + height + 8, CENTRE - 8),
        text(LEFT + RANK * CELL / 2 + 16, CENTRE - 24, "spread", "small"),
        arrow(RIGHT + width / 2, TOP + height + 8, CENTRE - 8),
        text(RIGHT + width / 2 + 16, CENTRE - 24, "spread", "small"),
        text(MIDDLE + width / 2, CENTRE - 32, "W0: [d, k]", anchor="middle"),
        text(MIDDLE + width / 2, CENTRE - 11, "frozen", "small", anchor="middle"),
        matrix(LEFT, CENTRE, np.repeat(rows, wide, axis=1), BLUE, ENTRY, groups=(1, wide)),
        text((LEFT + width + MIDDLE) / 2, CENTRE + height / 2 + 9, "⊙", "sign", anchor="middle"),
        matrix(MIDDLE, CENTRE, kernel, WEIGHTS, ENTRY),
        text((MIDDLE + width + RIGHT) / 2, CENTRE + height / 2 + 9, "⊙", "sign", anchor="middle"),
        matrix(RIGHT, CENTRE, np.repeat(columns, high, axis=0), ORANGE, ENTRY, groups=(high, 1)),
        text((LEFT + width + MIDDLE) / 2, BOTTOM + height / 2 + 9, "=", "sign", anchor="middle"),
        matrix(MIDDLE, BOTTOM, new_kernel, WEIGHTS, ENTRY),
        text(RIGHT, BOTTOM + height / 2 + 6, "W: [d, k]"),
        text(
            PAGE[0] / 2, PAGE[1] - 20, "W[i, j] = M_A[i, j // (k/r)] · W0[i, j] · M_B[i // (d/r), j]", anchor="middle"
        ),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PAGE[0]} {PAGE[1]}" role="img">',
            "<title>Each entry of W is that of W0 times one number of M_A and one of M_B</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{PAGE[0] - 1}" height="{PAGE[1] - 1}" rx="8"/>',
            *parts,
            "</svg>\n",
        ]
    )


def matrix(
    x: float,
    y: float,
    values: np.ndarray,
    scale: tuple[float, str, str, str],
    entry: tuple[int, int],
    groups: tuple[int, int] | None = None,
) -> str:
    """A matrix as coloured cells.

    Args:
        x: its left edge.
        y: its upper edge.
        values: what the colours show.
        scale: the smallest value, and the colours of it, of the middle and of the largest value.
        entry: the cell that is framed.
        groups: rows and columns of a group of equal cells; lines are drawn around groups.
    """
    lowest, *colors = scale
    middle = 1.0 if lowest > 0 else 0.0
    cells = [
        f'<rect x="{x + CELL * column}" y="{y + CELL * row}" width="{CELL}" height="{CELL}" '
        f'fill="{color_of((float(values[row, column]) - middle) / (middle - lowest), colors)}"/>'
        for row, column in np.ndindex(values.shape)
    ]
    down, across = groups or values.shape
    borders = [
        f'<rect x="{x + CELL * column}" y="{y + CELL * row}" width="{CELL * across}" height="{CELL * down}"/>'
        for row in range(0, values.shape[0], down)
        for column in range(0, values.shape[1], across)
    ]
    frame = f'<rect class="entry" x="{x + CELL * entry[1]}" y="{y + CELL * entry[0]}" width="{CELL}" height="{CELL}"/>'
    return "\n".join(['<g class="cells">', *cells, '</g><g class="group">', *borders, "</g>", frame])


def color_of(position: float, colors: Sequence[str]) -> str:
    """The colour of a value.

    Args:
        position: from -1, the smallest value, to 1, the largest.
        colors: of -1, 0 and 1.
    """
    below, middle, above = (np.array([int(color[n : n + 2], 16) for n in (1, 3, 5)]) for color in colors)
    towards = above if position > 0 else below
    mixed = middle + min(abs(position), 1.0) * (towards - middle)
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def arrow(x: float, start: float, end: float) -> str:
    """An arrow downwards."""
    return (
        f'<line class="arrow" x1="{x}" y1="{start}" x2="{x}" y2="{end - 8}"/>'
        f'<path class="head" d="M{x - 6} {end - 10}h12l-6 10z"/>'
    )


def text(x: float, y: float, words: str, kind: str = "usual", anchor: str = "start") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


if __name__ == "__main__":
    cli.run(main)
