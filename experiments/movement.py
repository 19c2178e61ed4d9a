"""How far training moved each kernel, in norm and in rank, and how its factors came to be distributed.

    python -m experiments.movement runs/quickstart
    python -m experiments.movement runs/hut runs/lora --output=runs/movement

prints a table for each run of `hut_jax.train`, a row a kernel: the norm of `W - W0` over that of W0, how many singular
values of `W - W0` hold 99 % of its squared norm, and of each factor the 5th, 50th and 95th percentile. With `--output`
the tables are also in `movement.md` there, the figures in `movement.json`, which can be given instead of the runs, and
norm, rank and factors by layer in `movement.svg` and `.png`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.report import legend, save, style, subplots
from hut_jax.adapters.adapter import Adapter
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_json, write_text
from hut_jax.core.trees import flatten, show
from hut_jax.runs.trained import load_run, read_trained_config
from hut_jax.runs.workdir import check_writable

ENERGY = 0.99
PERCENTILES = (5, 50, 95)


class Moved(NamedTuple):
    """What became of a kernel.

    Attributes:
        path: the module's.
        norm: of `W - W0`, over that of W0.
        rank: how many singular values of `W - W0` hold `ENERGY` of its squared norm.
        factors: each factor's `PERCENTILES`, by its name.
    """

    path: str
    norm: float
    rank: int
    factors: dict[str, list[float]]

    @property
    def layer(self) -> int | None:
        """The number of its layer; None outside the layers."""
        found = re.search(r"layer_(\d+)", self.path)
        return int(found[1]) if found else None


def moved(adapter: Adapter, params: Mapping[str, Any], factors: Mapping[str, Any]) -> list[Moved]:
    """Of each adapted kernel that is a matrix, layers one by one; modules that train in full beside them are left out.

    Args:
        adapter: what was trained.
        params: the base in fp32, its layers not stacked.
        factors: the adapter's.
    """
    before, after = flatten(params), flatten(adapter.merge(params, factors))
    flat = flatten(factors)
    found = []
    for site in adapter.sites(params):
        if site.also or len(site.shape) != 2:
            continue
        leaf = site.path if site.layout is None else (*site.path, "kernel")
        change = np.asarray(after[leaf]) - np.asarray(before[leaf])
        norm = float(np.linalg.norm(change) / np.linalg.norm(before[leaf]))
        own = {key: np.percentile(values, PERCENTILES).tolist() for key, values in site.own(flat).items()}
        found.append(Moved(show(leaf).removesuffix("/kernel"), norm, effective_rank(change), own))
    return found


def effective_rank(matrix: Float[np.ndarray, "d k"]) -> int:
    """How many singular values hold `ENERGY` of the matrix's squared norm; 0 for zeros."""
    energy = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(energy), ENERGY * energy.sum())) + 1 if energy.any() else 0


def table(rows: Iterable[Moved]) -> str:
    """A row a kernel in Markdown."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.factors))
    head = ["kernel", "norm of W - W0 over W0's", "rank of W - W0", *(f"{name}: 5, 50, 95 %" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        spread = [
            ", ".join(f"{one:+.3f}" for one in row.factors[name]) if name in row.factors else "-" for name in names
        ]
        lines.append("| " + " | ".join([row.path, f"{row.norm:.3f}", str(row.rank), *spread]) + " |")
    return "\n".join(lines)


def picture(runs: Mapping[str, tuple[str, Sequence[Moved]]], path: Path) -> None:
    """Norm and rank against the layer, and the factors of the first run.

    Args:
        runs: a name to the transformation's name and its rows.
        path: where, without or with an ending: SVG and PNG are written.
    """
    axes, figure = subplots(3)
    for name, (method, rows) in runs.items():
        layered = [row for row in rows if row.layer is not None]
        layers = [row.layer for row in layered]
        options = style(method) | {"linestyle": "", "alpha": 0.7}
        axes[0].plot(layers, [row.norm for row in layered], label=name, **options)
        axes[1].plot(layers, [row.rank for row in layered], **options)
    (name, (_, rows)), *_ = runs.items()
    names = list(dict.fromkeys(factor for row in rows for factor in row.factors))
    for place, factor in enumerate(names):
        own = [row for row in rows if factor in row.factors and row.layer is not None]
        low, middle, high = np.transpose([row.factors[factor] for row in own]) if own else np.empty((3, 0))
        beside = np.array([row.layer for row in own]) + 0.15 * (place - (len(names) - 1) / 2)
        shade = f"{0.6 * place / len(names):.2f}"  # greys: colours are the methods'
        reach = [middle - low, high - middle]
        axes[2].errorbar(beside, middle, reach, fmt="osD^v"[place % 5], color=shade, label=factor)
    axes[2].set_title(f"of {name}")
    for axis, label in zip(axes, ("norm of W - W0 over W0's", "rank of W - W0", "factors, 5 to 95 %"), strict=True):
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    save(figure, path)


def read_movement(path: Path) -> dict[str, tuple[str, list[Moved]]]:
    """What `movement.json` holds: each run's name, its transformation's, and its rows.

    Raises:
        UserError: it is not such a file.
    """
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))
        read = {name: (method, [Moved(*row) for row in rows]) for name, (method, rows) in runs.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no movement.json that --output wrote: {error}") from None
    if not read:
        raise UserError(f"{path} has no runs")
    return read


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """Each without what they have in common."""
    if len(workdirs) < 2:
        return [workdir.resolve().name for workdir in workdirs]
    common = os.path.commonpath([workdir.resolve() for workdir in workdirs])
    return [str(workdir.resolve().relative_to(common)) for workdir in workdirs]


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.movement", __doc__ or "")
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR", help="of a run, or a movement.json")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where table and pictures go; made if need be")
    args = parser.parse_args(argv)
    files = [path for path in args.workdirs if path.is_file()]
    runs = {name: run for path in files for name, run in read_movement(path).items()}
    workdirs = [path for path in dict.fromkeys(args.workdirs) if path not in files]
    configs = {workdir: read_trained_config(workdir) for workdir in workdirs}  # for their errors, before long work
    if args.output:
        check_writable(args.output, "the folder of --output,")
    for name, (workdir, config) in zip(short_names(workdirs), configs.items(), strict=True):
        run = load_run(workdir, config, scan_layers=False)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), run.params)
        rows = moved(run.adapter, params, run.factors)
        if not rows:
            raise UserError(f"the adapter in {workdir} has changed no kernel")
        runs[name] = run.adapter.transform.name, rows
    text = "\n\n".join(f"{name}:\n\n{table(rows)}" for name, (_, rows) in runs.items())
    print(text)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_text(args.output / "movement.md", text + "\n")
        write_json(args.output / "movement.json", runs)
        picture(runs, args.output / "movement")
        print(f"\nin {args.output}: movement.md, movement.json, movement.svg, movement.png")
    return 0


if __name__ == "__main__":
    cli.run(main)
