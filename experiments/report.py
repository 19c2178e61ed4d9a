"""From records to tables and pictures, by what a method is and which rank it has."""

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import ttest_rel

from experiments.record import Record

COLORS = {
    "hut": "#0072B2", "lora": "#D55E00", "hira": "#009E73", "dora": "#CC79A7", "ia3": "#E69F00", "ssf": "#56B4E9",
    "bitfit": "#8C6D31", "layernorm": "#F0E442", "loha": "#6A3D9A", "lora_plus": "#A6361C", "full": "#000000",
    "head": "#999999",
}  # fmt: skip
"""A method's, in every picture: Okabe and Ito's, which the colour-blind can tell apart, and a few beside them."""
MARKERS = dict(zip(COLORS, "osD^vP*XpHd<", strict=True))
PEER = "lora"


class Cell(NamedTuple):
    """Where a run belongs: its method, its rank where that has one, and what else was set."""

    method: str
    rank: int | None
    settings: str = ""

    @property
    def variant(self) -> str:
        """The method with what was set of it, whatever the rank."""
        return f"{self.method}, {self.settings}" if self.settings else self.method

    def __str__(self) -> str:
        ranked = self.method if self.rank is None else f"{self.method}, r = {self.rank}"
        return f"{ranked}, {self.settings}" if self.settings else ranked


def cell(record: Record) -> Cell:
    """A record's; its name begins with that of the method, and what was set."""
    method, *settings = re.split(r",(?=\w+=)", record.name.rsplit("/", 2)[0])
    others = [one for one in settings if not one.startswith("rank=") and one != "targets=()"]
    return Cell(method, record.config.get("adapter.rank"), ", ".join(others))


def rate(record: Record) -> float:
    """The learning rate that it ran at."""
    return record.config["train.learning_rate"]


def at_best_rates(records: Iterable[Record]) -> list[Record]:
    """Of each cell the runs at one rate: that with the most seeds, or of several with as many the first's best.

    So the trials of the other rates, which have one seed, count for nothing more.
    """
    chosen: list[Record] = []
    for group in by_cell(records).values():
        by_rate: defaultdict[float, list[Record]] = defaultdict(list)
        for record in group:
            by_rate[rate(record)].append(record)
        best: list[Record] = max(by_rate.values(), key=lambda runs: (len(runs), _merit(runs[0])))
        chosen += best
    return chosen


def _merit(record: Record) -> float:
    return record.score if record.maximize else -record.score


def by_cell(records: Iterable[Record]) -> dict[Cell, list[Record]]:
    """The records of each, by seed."""
    found = defaultdict(list)
    for record in sorted(records, key=lambda record: record.seed):
        found[cell(record)].append(record)
    return dict(found)


def paired(own: Iterable[Record], peers: Iterable[Record]) -> list[tuple[float, float]]:
    """The scores of the seeds that both have."""
    theirs = {record.seed: record.score for record in peers}
    return [(record.score, theirs[record.seed]) for record in own if record.seed in theirs]


def against_peer(own: Iterable[Record], peers: Iterable[Record]) -> tuple[float, float | None] | None:
    """The mean difference of scores over the seeds that both have, and the p of a paired t-test where there is one.

    None where no seed is in both.
    """
    pairs = paired(own, peers)
    if not pairs:
        return None
    differences = [a - b for a, b in pairs]
    varies = len(pairs) >= 3 and len(set(differences)) > 1
    p = float(ttest_rel(*zip(*pairs, strict=True)).pvalue) if varies else None
    return statistics.mean(differences), p


def rates_table(records: Iterable[Record]) -> str:
    """The trials of each cell that was tried at several rates, in Markdown: the first seed's score at each."""
    lines = ["| | score at each rate |", "|---|---|"]
    for key, group in by_cell(records).items():
        first = {rate(record): record for record in reversed(group)}
        if len(first) > 1:
            best = max(first.values(), key=_merit)
            shown = [
                f"**{record.score:.4g}** at {at:g}" if record is best else f"{record.score:.4g} at {at:g}"
                for at, record in sorted(first.items())
            ]
            lines.append(f"| {key} | {'; '.join(shown)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def table(records: Iterable[Record]) -> str:
    """A row a method and rank in Markdown: mean and standard deviation over seeds, and the rest by its median.

    Times, FLOPs and memory are those of the device that most runs had: others are not to be compared with them.
    """
    cells = by_cell(records)
    device = usual_device(cells)
    first = next(iter(cells.values()))[0]
    forgets = any(record.forgetting for group in cells.values() for record in group)
    head = ["", "rate", first.headline, "seeds", "minus LoRA's (p)", "trains", "adapter, kB", "ms an update",
            "GFLOP an update", "peak, MB", *(["forgets, nats"] if forgets else [])]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, group in cells.items():
        alike = [record for record in group if record.device == device]
        row = [
            str(key),
            ", ".join(f"{at:g}" for at in sorted({*map(rate, group)})),
            show_spread([record.score for record in group]),
            str(len(group)),
            show_difference(against_peer(group, peers_of(cells, key))),
            f"{group[0].trainable:,}",
            f"{statistics.median(record.adapter_bytes for record in group) / 1e3:,.0f}",
            f"{1e3 * statistics.median(record.seconds_per_update for record in alike):,.1f}" if alike else "-",
            f"{1e-9 * statistics.median(record.flops_per_update for record in alike):,.2f}" if alike else "-",
            f"{1e-6 * statistics.median(record.peak_bytes for record in alike):,.0f}" if alike else "-",
        ]
        if forgets:
            row.append(show_spread([r.forgetting["after"] - r.forgetting["before"] for r in group if r.forgetting]))
        lines.append("| " + " | ".join(row) + " |")
    if len({record.device for group in cells.values() for record in group}) > 1:
        lines += ["", f"Times, FLOPs and memory are of the runs on {device}."]
    return "\n".join(lines)


def usual_device(cells: Mapping[Cell, list[Record]]) -> str:
    """The device that most of the runs had."""
    return Counter(record.device for group in cells.values() for record in group).most_common(1)[0][0]


def peers_of(cells: Mapping[Cell, list[Record]], key: Cell, peer: str = PEER) -> list[Record]:
    """The peer's runs, of the same rank where both have one, if there is one such cell; none for the peer itself."""
    found = [
        group
        for other, group in cells.items()
        if other.method == peer and (None in (key.rank, other.rank) or key.rank == other.rank)
    ]
    return found[0] if len(found) == 1 and key.method != peer else []


def show_spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def show_difference(found: tuple[float, float | None] | None) -> str:
    """What `against_peer` found."""
    if found is None:
        return "-"
    difference, p = found
    return f"{difference:+.2g}" + ("" if p is None else f" ({p:.2g})")


def rank_picture(records: Iterable[Record], path: Path) -> None:
    """Score against rank, SVG and PNG: means, and a bar from the least to the most of the seeds."""
    cells, axes, figure = by_cell(records), *subplots(1)
    for method in _variants(cells):
        ranked = sorted((key.rank, [r.score for r in group]) for key, group in cells.items()
                        if key.variant == method and key.rank is not None)  # fmt: skip
        if ranked:
            ranks, scores = zip(*ranked, strict=True)
            means = [statistics.mean(each) for each in scores]
            reach = [[m - min(s) for m, s in zip(means, scores, strict=True)],
                     [max(s) - m for m, s in zip(means, scores, strict=True)]]  # fmt: skip
            axes[0].errorbar(ranks, means, reach, capsize=4, label=method, **style(method))
        for key, group in cells.items():
            if key.variant == method and key.rank is None:
                level = statistics.mean(record.score for record in group)
                drawn = {name: value for name, value in style(method).items() if name in ("color", "alpha")}
                axes[0].axhline(level, linestyle="--", label=method, **drawn)
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set_xlabel("rank")
    axes[0].set_ylabel(_label(cells))
    legend(axes)
    save(figure, path)


def pareto_picture(records: Iterable[Record], path: Path) -> None:
    """Score against an update's time, the peak of memory and the numbers that train, SVG and PNG.

    Time and memory are those of the device that most runs had, as in `table`.
    """
    cells, axes, figure = by_cell(records), *subplots(3)
    device = usual_device(cells)
    costs = (
        ("ms an update", lambda record: 1e3 * record.seconds_per_update),
        ("peak memory, MB", lambda record: 1e-6 * record.peak_bytes),
        ("numbers that train", lambda record: record.trainable),
    )
    for axis, (label, cost) in zip(axes, costs, strict=True):
        for method in _variants(cells):
            points = []
            for group in (group for key, group in cells.items() if key.variant == method):
                costs_of = [cost(record) for record in group if record.device == device or axis is axes[-1]]
                points += [(statistics.median(costs_of), statistics.mean(r.score for r in group))] if costs_of else []
            drawn = zip(*points, strict=True) if points else ((), ())
            axis.plot(*drawn, linestyle="", label=method, **style(method))
        axis.set_xlabel(label)
        axis.set_ylabel(_label(cells))
    axes[-1].set_xscale("log")
    legend(axes)
    save(figure, path)


def _variants(cells: Mapping[Cell, Any]) -> list[str]:
    return list(dict.fromkeys(key.variant for key in cells))


def _label(cells: Mapping[Cell, list[Record]]) -> str:
    record = next(iter(cells.values()))[0]
    return f"{record.headline}, {'more' if record.maximize else 'less'} is better"


def style(method: str) -> dict[str, Any]:
    """How a method is drawn, in every picture; with other settings it is lighter."""
    method, *settings = method.split(", ")
    lighter = {"alpha": 0.45} if settings else {}
    return lighter | {"color": COLORS.get(method, "#999999"), "marker": MARKERS.get(method, "."), "markersize": 9}


def subplots(count: int) -> tuple[list[Any], Any]:
    """So many axes side by side, and their figure."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["font.size"] = 14
    figure = Figure(figsize=(6.5 * count + 1, 5), layout="constrained")
    return list(figure.subplots(1, count, squeeze=False)[0]), figure


def legend(axes: Sequence[Any]) -> None:
    """That of all axes, beside the last, where it hides nothing."""
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))


def save(figure: Any, path: Path) -> None:
    """As SVG and PNG."""
    for ending in (".svg", ".png"):
        figure.savefig(path.with_suffix(ending))
