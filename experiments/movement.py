"""How far training moved each kernel, in norm and in rank, and how its factors are distributed.

    python -m experiments.movement runs/quickstart
    python -m experiments.movement runs/study/hut,rank=8/1/0 runs/study/lora,rank=8/1/0 --output=runs/movement
    python -m experiments.movement results/minilm_sst2.jsonl --table=adapters

Prints a table for each run, with a row for each kernel. The row has the norm of `W - W0` over that of W0, how many
singular values of `W - W0` hold 99 % of its squared norm, and the 5th, 50th and 95th percentile of each factor.
`--table=adapters` has a row for each adapter instead. If a workdir of `hut_jax.train` is given, its run is measured,
and the figures are written to its `movement.json`. The study that the run belongs to takes them into its JSONL. If a
study's JSONL is given, the figures in it are shown. `--output` names a folder. It gets the tables as `movement.md`, and
pictures of norm, rank and factors by layer as `movement.svg` and `.png`.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments import tables
from experiments.analysis import LABELS
from experiments.pictures import legend, method_style, save, subplots
from experiments.record import MOVEMENT
from experiments.results import read_study
from hut_jax.adapters.adapter import Adapter
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import write_json, write_text
from hut_jax.core.trees import flatten, show
from hut_jax.runs.trained import load_run, read_trained_config
from hut_jax.runs.workdir import check_writable

ENERGY = 0.99
PERCENTILES = (5, 50, 95)
NORM, RANK = "norm of W - W0 over W0's", "rank of W - W0"


class Moved(NamedTuple):
    """How a kernel has changed.

    Attributes:
        kernel: the module's path.
        norm: of `W - W0`, over that of W0.
        rank: how many singular values of `W - W0` hold `ENERGY` of its squared norm.
        factors: each factor's `PERCENTILES`, by its name.
    """

    kernel: str
    norm: float
    rank: int
    factors: dict[str, list[float]]

    @property
    def layer(self) -> int | None:
        """The number of its layer; None outside the layers."""
        found = re.search(r"layer_(\d+)", self.kernel)
        return int(found[1]) if found else None


class Measured(NamedTuple):
    """A run whose kernels were measured."""

    study: str
    method: str
    kernels: list[Moved]


def measure(workdir: Path) -> Measured:
    """Measure a run from its adapter and its base.

    Raises:
        UserError: there is no such run, its base cannot be had, or no kernel has changed.
    """
    run = load_run(workdir, scan_layers=False)
    kernels = moved(run.adapter, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), run.params), run.factors)
    if not kernels:
        raise UserError(f"the adapter in {workdir} has changed no kernel")
    return Measured("", run.adapter.transform.name, kernels)


def moved(adapter: Adapter, params: Mapping[str, Any], factors: Mapping[str, Any]) -> list[Moved]:
    """Compare each adapted matrix before and after training, but no modules of `also_train`.

    Args:
        adapter: what was trained.
        params: the base in fp32, its layers not scanned.
        factors: the adapter's.
    """
    before, after = flatten(params), flatten(adapter.merge(params, factors))
    flat = flatten(factors)
    found = []
    for site in adapter.sites(params):
        if site.also or len(site.shape) != 2:
            continue
        leaf = site.kernel
        change = np.asarray(after[leaf]) - np.asarray(before[leaf])
        norm = float(np.linalg.norm(change) / np.linalg.norm(before[leaf]))
        own = {key: np.percentile(values, PERCENTILES).tolist() for key, values in site.own(flat).items()}
        found.append(Moved(show(leaf).removesuffix("/kernel"), norm, effective_rank(change), own))
    return found


def effective_rank(matrix: Float[np.ndarray, "d k"]) -> int:
    """How many singular values hold `ENERGY` of the matrix's squared norm; 0 for zeros."""
    energy = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(energy), ENERGY * energy.sum())) + 1 if energy.any() else 0


def read_movement(study: Path) -> dict[str, Measured]:
    """The runs of a study that were measured, by name.

    Raises:
        UserError: it is no study, or none of its runs was measured.
    """
    records = [record for record in read_study(study) if record.movement]
    if not records:
        raise UserError(f"no run of {study} was measured; give the runs' workdirs")
    order = {method: position for position, method in enumerate(LABELS)}
    records.sort(key=lambda record: order.get(record.method, len(order)))
    return {
        record.name: Measured(study.stem, record.method, [Moved(**kernel) for kernel in record.movement or ()])
        for record in records
    }


def kernels_table(kernels: Sequence[Moved]) -> str:
    """A row for each kernel."""
    names = _factor_names(kernels)
    rows = [
        {NORM: f"{one.norm:.3f}", RANK: one.rank}
        | {f"{name}: 5, 50, 95 %": ", ".join(f"{value:+.3f}" for value in one.factors.get(name, ())) for name in names}
        for one in kernels
    ]
    index = pd.Index([one.kernel for one in kernels], name="kernel")
    return tables.markdown(pd.DataFrame(rows, index))


def adapters_table(runs: Iterable[Measured]) -> str:
    """A row for each study and method: minimum, maximum and mean over the kernels of all its runs."""
    kernels = pd.DataFrame(
        (f"{run.study}: {LABELS.get(run.method, run.method)}".removeprefix(": "), one.norm, one.rank)
        for run in runs
        for one in run.kernels
    )
    norm, rank = (kernels.groupby(0, sort=False)[column].agg(["min", "max", "mean"]) for column in (1, 2))
    columns = {
        NORM: [f"{row['min']:.2f} to {row['max']:.2f}" for _, row in norm.iterrows()],
        "its mean": norm["mean"].map("{:.2f}".format),
        "singular values with 99 % of its squared norm": [
            f"{row['min']:.0f} to {row['max']:.0f}" for _, row in rank.iterrows()
        ],
    }
    return tables.markdown(pd.DataFrame(columns, norm.index).rename_axis(None))


def _factor_names(kernels: Iterable[Moved]) -> list[str]:
    return list(dict.fromkeys(name for one in kernels for name in one.factors))


def picture(runs: Mapping[str, Measured], path: Path) -> None:
    """Draw norm and rank against the layer, and the factors of the first run.

    Args:
        runs: by name.
        path: of the files, without their endings: SVG and PNG are written.
    """
    axes, figure = subplots(3)
    for name, run in runs.items():
        layered = [one for one in run.kernels if one.layer is not None]
        layers = [one.layer for one in layered]
        options = method_style(run.method) | {"linestyle": "", "alpha": 0.7}
        axes[0].plot(layers, [one.norm for one in layered], label=name, **options)
        axes[1].plot(layers, [one.rank for one in layered], **options)
    (name, first), *_ = runs.items()
    names = _factor_names(first.kernels)
    for position, factor in enumerate(names):
        own = [one for one in first.kernels if factor in one.factors and one.layer is not None]
        low, middle, high = np.transpose([one.factors[factor] for one in own]) if own else np.empty((3, 0))
        beside = np.array([one.layer for one in own]) + 0.15 * (position - (len(names) - 1) / 2)
        shade = f"{0.6 * position / len(names):.2f}"  # greys: colours are the methods'
        reach = [middle - low, high - middle]
        axes[2].errorbar(beside, middle, reach, fmt="osD^v"[position % 5], color=shade, label=factor)
    axes[2].set_title(f"of {name}")
    for axis, label in zip(axes, (NORM, RANK, "factors, 5 to 95 %"), strict=True):
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    save(figure, path)


def short_names(workdirs: Sequence[Path]) -> list[str]:
    """The folders' paths without their common part."""
    if len(workdirs) < 2:
        return [workdir.resolve().name for workdir in workdirs]
    common = os.path.commonpath([workdir.resolve() for workdir in workdirs])
    return [str(workdir.resolve().relative_to(common)) for workdir in workdirs]


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.movement", __doc__ or "")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="the workdir of a run, or a study's JSONL")
    parser.add_argument("--table", choices=("kernels", "adapters"), default="kernels")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where table and pictures go; made if need be")
    args = parser.parse_args(argv)
    paths = list(dict.fromkeys(args.paths))
    workdirs = [path for path in paths if not path.is_file()]
    for workdir in workdirs:  # for their errors, before long work
        read_trained_config(workdir)
        check_writable(workdir)
    if args.output:
        check_writable(args.output, "the folder of --output,")
    studies = [path for path in paths if path.is_file()]
    runs: dict[str, Measured] = {}
    for study in studies:
        prefix = f"{study.stem}/" if len(studies) > 1 else ""
        runs |= {prefix + name: run for name, run in read_movement(study).items()}
    for name, workdir in zip(short_names(workdirs), workdirs, strict=True):
        runs[name] = measure(workdir)
        write_json(workdir / MOVEMENT, {"kernels": [one._asdict() for one in runs[name].kernels]})
    if args.table == "adapters":
        text = adapters_table(runs.values())
    else:
        text = "\n\n".join(f"{name}:\n\n{kernels_table(run.kernels)}" for name, run in runs.items())
    print(text)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_text(args.output / "movement.md", text + "\n")
        picture(runs, args.output / "movement")
        print(f"\nin {args.output}: movement.md, movement.svg, movement.png")
    return 0


if __name__ == "__main__":
    cli.run(main)
