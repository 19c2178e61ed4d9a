"""The pictures of a study, and what all pictures share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.analysis import usual_device

COLORS = {
    "hut": "#0072B2", "lora": "#D55E00", "hira": "#009E73", "dora": "#CC79A7", "ia3": "#E69F00", "ssf": "#56B4E9",
    "bitfit": "#8C6D31", "layernorm": "#F0E442", "loha": "#6A3D9A", "lora_plus": "#A6361C", "full": "#000000",
    "head": "#999999",
}  # fmt: skip
"""The colour of each method in every picture: Okabe and Ito's, safe for the colour-blind, and a few more."""
MARKERS = dict(zip(COLORS, "osD^vP*XpHd<", strict=True))


def rank_picture(best: pd.DataFrame, path: Path) -> None:
    """Draw the score against the rank, as SVG and PNG: the mean, and a bar from the lowest to the highest seed.

    Args:
        best: the runs of a study at their best learning rates.
        path: of the files, without their endings.
    """
    axes, figure = subplots(1)
    for variant, runs in best.groupby("variant", sort=False):
        drawn = style(runs)
        scores = runs.groupby("rank")["score"].agg(["mean", "min", "max"])
        if len(scores):
            reach = [scores["mean"] - scores["min"], scores["max"] - scores["mean"]]
            axes[0].errorbar(scores.index.astype(int), scores["mean"], reach, capsize=4, label=variant, **drawn)
        level = runs["score"][runs["rank"].isna()]
        if len(level):
            line = {name: value for name, value in drawn.items() if name in ("color", "alpha")}
            axes[0].axhline(level.mean(), linestyle="--", label=variant, **line)
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set_xlabel("rank")
    axes[0].set_ylabel(score_label(best))
    legend(axes)
    save(figure, path)


def pareto_picture(best: pd.DataFrame, path: Path) -> None:
    """Draw the score against the time of a step, the peak memory and the trainable parameters, as SVG and PNG.

    Time and memory are those of the device that most runs had.

    Args:
        best: the runs of a study at their best learning rates.
        path: of the files, without their endings.
    """
    axes, figure = subplots(3)
    alike = best[best["device"] == usual_device(best)]
    costs = (
        ("ms per step", 1e3 * alike["seconds_per_step"]),
        ("peak memory, MB", 1e-6 * alike["peak_bytes"]),
        ("trainable parameters", best["trainable"]),
    )
    for axis, (label, cost) in zip(axes, costs, strict=True):
        for variant, runs in best.groupby("variant", sort=False):
            points = runs.assign(cost=cost).groupby("adapter").agg({"cost": "median", "score": "mean"}).dropna()
            axis.plot(points["cost"], points["score"], linestyle="", label=variant, **style(runs))
        axis.set_xlabel(label)
        axis.set_ylabel(score_label(best))
    axes[-1].set_xscale("log")
    legend(axes)
    save(figure, path)


def score_label(runs: pd.DataFrame) -> str:
    """The name of the score, and which way is better."""
    run = runs.iloc[0]
    return f"{run['score_name']}, {'more' if run['maximize'] else 'less'} is better"


def style(runs: pd.DataFrame) -> dict[str, Any]:
    """How the runs of one variant are drawn; a variant with settings other than a rank is lighter."""
    run = runs.iloc[0]
    return method_style(run["method"]) | ({"alpha": 0.45} if run["settings"] else {})


def method_style(method: str) -> dict[str, Any]:
    """How a method is drawn."""
    return {"color": COLORS.get(method, "#999999"), "marker": MARKERS.get(method, "."), "markersize": 9}


def subplots(count: int) -> tuple[list[Any], Any]:
    """So many axes side by side, and their figure."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["font.size"] = 14
    figure = Figure(figsize=(6.5 * count + 1, 5), layout="constrained")
    return list(figure.subplots(1, count, squeeze=False)[0]), figure


def legend(axes: Sequence[Any]) -> None:
    """Draw one legend for all axes, to the right of the last."""
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def save(figure: Any, path: Path) -> None:
    """Save the figure as SVG and PNG."""
    for ending in (".svg", ".png"):
        figure.savefig(path.with_suffix(ending))
