"""The pictures of a study, and what all pictures share."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.analysis import at_best_learning_rates, choice_note, usual_device

COLORS = {
    "hut": "#0072B2", "lora": "#D55E00", "hira": "#009E73", "dora": "#CC79A7", "ia3": "#E69F00", "ssf": "#56B4E9",
    "bitfit": "#8C6D31", "layernorm": "#F0E442", "loha": "#6A3D9A", "lora_plus": "#A6361C", "full": "#000000",
    "head": "#999999",
}  # fmt: skip
"""The colour of each method in every picture: Okabe and Ito's, safe for the colour-blind, and a few more."""
UNITS = {"loss": " in nats per token"}
"""The units of scores that have one."""
MARKERS = dict(zip(COLORS, "osD^vP*XpHd<", strict=True))


def rank_picture(runs: pd.DataFrame, path: Path) -> None:
    """Draw the score against the rank, as SVG and PNG: a line through the means, and each seed as a point.

    Args:
        runs: of a study, with those that chose the learning rates.
        path: of the files, without their endings.
    """
    best = at_best_learning_rates(runs)
    (axis,), figure = subplots(1)
    ends: list[tuple[float, str, str]] = []
    variants = list(best.groupby("variant", sort=False))
    for position, (variant, own) in enumerate(variants):
        drawn = style(own)
        color, beside = drawn["color"], 1 + 0.02 * (position - (len(variants) - 1) / 2)  # so that none hides another
        scores = own.groupby("rank")["score"].agg(["mean", "min", "max"])
        if len(scores):
            ranks = scores.index.astype(int) * beside
            reach = [scores["mean"] - scores["min"], scores["max"] - scores["mean"]]
            axis.errorbar(ranks, scores["mean"], reach, capsize=4, **drawn)
            ranked = own[own["rank"].notna()]
            axis.plot(ranked["rank"].astype(int) * beside, ranked["score"], ".", color=color, alpha=0.5, markersize=7)
            ends.append((scores["mean"].iloc[-1], str(variant), color))
        level = own["score"][own["rank"].isna()]
        if len(level):
            axis.axhline(level.mean(), linestyle="--", color=color, alpha=drawn.get("alpha"))
            ends.append((level.mean(), str(variant), color))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    ranks = sorted(map(int, best["rank"].dropna().unique()))
    axis.set_xticks(ranks, [str(rank) for rank in ranks])
    axis.minorticks_off()
    axis.set_xlabel("rank")
    axis.set_ylabel(score_label(best))
    axis.set_title(f"The score against the rank: {title_of(best)}", loc="left")
    label_ends(axis, ends)
    counts = best.groupby("adapter").size()
    seeds = (
        "seed" if counts.max() == 1 else f"{' to '.join(dict.fromkeys(map(str, (counts.min(), counts.max()))))} seeds"
    )
    reached = f"Lines are means, small points the {seeds}, bars reach from the lowest to the highest."
    notes = textwrap.wrap(f"{reached} {choice_note(runs)}".replace(" %", "\u00a0%"), 92)
    figure.supxlabel("\n".join(notes), fontsize=11, x=0.02, ha="left")
    save(figure, path)


def title_of(best: pd.DataFrame) -> str:
    """What was trained: the task, the base and the steps."""
    run = best.iloc[0]
    base = str(run["base"]).rsplit("/", 1)[-1]
    return ", ".join(filter(None, [f"{run['task']} on {base}" if run["task"] else base, f"{run['steps']:,} steps"]))


def label_ends(axis: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name beside its right end, at least a line of text apart.

    Args:
        axis: where the lines are drawn.
        ends: of each line the height, the name and the colour.
    """
    low, high = axis.get_ylim()
    apart, below = 0.065, -1.0
    for height, name, color in sorted(ends):
        below = max((height - low) / (high - low), below + apart)
        axis.text(1.02, below, name, color=color, transform=axis.transAxes, va="center", fontweight="bold")


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
    unit = UNITS.get(run["score_name"], "")
    return f"{run['score_name']}{unit}, {'more' if run['maximize'] else 'less'} is better"


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
