"""Several studies side by side, from their results alone: one row per adapter, one column per study.

    python -m experiments.summary runs/cola runs/sst2 --ranks=8 --output=runs/summary

A study is the workdir of `experiments.method_comparison` or `experiments.rank_ablation`, or its JSONL. The table
`scores` has mean and standard deviation over the seeds. It also has each adapter's mean position among the adapters
that every study has. The table `differences` has the mean difference to LoRA, or to `--peer`, over the seeds that both
have, and the p of a paired t-test. An adapter with fewer seeds than the rest of its study is marked and has no mean
position. `--output` names a folder, which gets the tables as `summary.md`, and a picture of the differences as
`summary.svg` and `.png`.

`--table` names other tables. `both` has scores and differences in one table. `seeds` has the score of each seed.
`trials` has the score at each learning rate that was tried.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from experiments import report, tables
from experiments.analysis import (
    PEER,
    at_best_learning_rates,
    check_peer,
    first_trials,
    label_of,
    paired,
    to_frame,
)
from experiments.options import add_selection, selected, words
from experiments.pictures import save, style, subplots
from experiments.results import read_study
from hut_jax.core import cli
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import write_text
from hut_jax.runs.workdir import check_writable

Studies = Mapping[str, pd.DataFrame]
"""Each study's runs by its name."""


def by_name(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """The studies by the names of their files or folders: `sst2`, or `minilm/sst2` where two are called so.

    Raises:
        UserError: a study cannot be read, or is given twice.
    """
    return {name: to_frame(read_study(path)) for name, path in _named(paths).items()}


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Each study, named by as many last parts of its path as tell it from the others."""
    parts = [Path(str(path.resolve()).removesuffix(".jsonl")).parts for path in paths]
    twice = next((path for path, those in zip(paths, parts, strict=True) if parts.count(those) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is given twice; give each study once")

    def name(own: tuple[str, ...]) -> str:
        ends = (own[-length:] for length in range(1, len(own) + 1))
        return "/".join(next(end for end in ends if sum(those[-len(end) :] == end for those in parts) == 1))

    return {name(own): path for own, path in zip(parts, paths, strict=True)}


def scores(studies: Studies) -> pd.DataFrame:
    """Mean and standard deviation in each study, and the mean position of the adapters that every study has."""
    columns = {_title(name, runs): _scores(at_best_learning_rates(runs)) for name, runs in studies.items()}
    table = pd.DataFrame(columns, index=_adapters(studies))
    table["mean position"] = mean_positions(studies).map("{:.1f}".format)
    return table


def mean_positions(studies: Studies) -> pd.Series:
    """Each adapter's mean position over the studies, for adapters that all studies have with all seeds."""
    means = []
    for runs in map(at_best_learning_rates, studies.values()):
        groups = runs.groupby("adapter")["merit"]
        equal_to_rounding = groups.mean().round(12)
        means.append(equal_to_rounding[groups.size() == groups.size().max()])
    return pd.concat(means, axis=1, join="inner").rank(ascending=False).mean(axis=1)


def differences(studies: Studies, peer: str = PEER) -> pd.DataFrame:
    """The difference to the peer in each study, for adapters that have one."""
    columns = {}
    for name, runs in studies.items():
        best = at_best_learning_rates(runs)
        columns[_title(name, runs)] = report.differences(best, peer)
    return pd.DataFrame(columns, index=_adapters(studies)).replace("", None).dropna(how="all")


def both(studies: Studies, peer: str = PEER) -> pd.DataFrame:
    """Scores and differences, study by study."""
    table, minus = scores(studies), differences(studies, peer)
    label = label_of(pd.concat(studies.values()), peer)
    columns: dict[str, pd.Series] = {}
    for name in minus:
        columns |= {name: table[name], f"{name}, minus {label}'s (p)": minus[name]}
    return pd.DataFrame(columns, index=table.index)


def seeds(studies: Studies) -> pd.DataFrame:
    """The mean score in each study, and in brackets the score of each seed and the learning rate."""
    columns: dict[str, dict[str, str]] = {}
    for name, runs in studies.items():
        shown = f"{{:.{tables.digits_of(runs['score_name'].iloc[0])}f}}".format
        column = columns.setdefault(_title(name, runs), {})
        for adapter, group in at_best_learning_rates(runs).groupby("adapter"):
            each = f"{' / '.join(map(shown, group['score']))}; " if len(group) > 1 else ""
            learning_rate = tables.learning_rate(group["learning_rate"].iloc[0])
            column[adapter] = f"{shown(group['score'].mean())} ({each}{learning_rate})"
    return pd.DataFrame(columns, index=_adapters(studies))


def trials(studies: Studies) -> pd.DataFrame:
    """The score of the first seed at each learning rate, in the studies that tried several."""
    columns: dict[str, pd.Series] = {}
    for name, runs in studies.items():
        tried = first_trials(runs)
        if len(tried):
            tried = tried.assign(text=report.trial_texts(tried))
            columns[_title(name, runs)] = tried.set_index(["adapter", "learning_rate"])["text"]
    if not columns:
        raise UserError("--table=trials: no adapter of these studies was tried at several learning rates")
    table = pd.DataFrame(columns).sort_index(level="learning_rate", sort_remaining=False)
    table = pd.concat([table.xs(one, drop_level=False) for one in _adapters(studies) if one in table.index])
    table.insert(0, "learning rate", table.index.get_level_values(1).map(tables.learning_rate))
    return table.droplevel(1).rename_axis(None)


def differences_picture(studies: Studies, path: Path, peer: str = PEER) -> None:
    """Draw the differences to the peer, as SVG and PNG: the mean, and a bar from the lowest to the highest seed."""
    axes, figure = subplots(len(studies))
    adapters = list(differences(studies, peer).index[::-1])
    for axis, (name, runs) in zip(axes, studies.items(), strict=True):
        best = at_best_learning_rates(runs)
        for row, adapter in enumerate(adapters):
            minus = paired(best, adapter, peer)
            if len(minus):
                reach = [[minus.mean() - minus.min()], [minus.max() - minus.mean()]]
                axis.errorbar([minus.mean()], [row], xerr=reach, capsize=4, **style(best[best["adapter"] == adapter]))
        axis.axvline(0, color="#999999", linewidth=1)
        axis.set_yticks(range(len(adapters)), [one if axis is axes[0] else "" for one in adapters])
        axis.set_ylim(-0.6, len(adapters) - 0.4)
        axis.set_xlabel(f"{_title(name, runs)}, minus {label_of(best, peer)}'s")
    save(figure, path)


def _adapters(studies: Studies) -> list[str]:
    """All adapters: those with a mean position in its order, then the others."""
    first = mean_positions(studies).sort_values(kind="stable").index
    return list(dict.fromkeys([*first, *pd.concat(studies.values())["adapter"]]))


def _scores(best: pd.DataFrame) -> pd.Series:
    digits, groups = tables.digits_of(best["score_name"].iloc[0]), best.groupby("adapter")["score"]
    most = groups.size().max()

    def text(scores: pd.Series) -> str:
        seeds = len(scores)
        few = f" ({seeds} seed{'s' * (seeds > 1)})" if seeds < most else ""
        return tables.spread(scores, digits) + few

    return groups.apply(text)


def _title(name: str, runs: pd.DataFrame) -> str:
    run = runs.iloc[0]
    return f"{name}, {run['score_name']}" + ("" if run["maximize"] else " (less is better)")


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.summary", __doc__ or "")
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="a workdir, or a JSONL")
    parser.add_argument("--table", default="scores,differences", help="also: both, seeds, trials")
    add_selection(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where tables and picture go; made if need be")
    args = parser.parse_args(argv)
    if args.output:
        check_writable(args.output, "the folder of --output,")
    studies = {name: selected(name, runs, args) for name, runs in by_name(args.studies).items()}
    every = pd.concat(studies.values())
    check_peer(args.peer, every)
    peer = label_of(every, args.peer)
    make: dict[str, Callable[[], str]] = {
        "scores": lambda: tables.markdown(scores(studies)),
        "differences": lambda: f"minus {peer}'s:\n\n{tables.markdown(differences(studies, args.peer))}",
        "both": lambda: tables.markdown(both(studies, args.peer)),
        "seeds": lambda: tables.markdown(seeds(studies)),
        "trials": lambda: tables.markdown(trials(studies)),
    }
    for name in words(args.table):
        if name not in make:
            raise UserError(f"--table: no table {name!r}; {nearest(name, make)}")
    text = "\n\n".join(make[name]() for name in words(args.table))
    print(text)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_text(args.output / "summary.md", text + "\n")
        differences_picture(studies, args.output / "summary", args.peer)
        print(f"\nin {args.output}: summary.md, summary.svg, summary.png")
    return 0


if __name__ == "__main__":
    cli.run(main)
