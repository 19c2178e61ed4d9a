"""Several studies side by side, from their records alone: one row per method, one column per study.

    python -m experiments.summary runs/cola runs/sst2 --ranks=8 --output=runs/summary

A study is the workdir of `method_comparison.py` or `rank_ablation.py`. The first table has mean and standard deviation
over the seeds, and the method's place among those that every study has, as the mean over the studies; the second the
mean difference to LoRA, or to `--peer`, over the seeds that both have, and the p of a paired t-test. What has fewer
seeds than the rest of its study is marked, and has no place. With `--output` the tables are in `summary.md` there, too,
and the differences in `summary.svg` and `.png`.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import rankdata

from experiments.record import Record
from experiments.report import (
    PEER,
    Cell,
    against_peer,
    at_best_rates,
    by_cell,
    paired,
    peers_of,
    save,
    show_difference,
    show_spread,
    style,
    subplots,
)
from experiments.study import in_order, numbers, read_study
from hut_jax.core import cli
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import write_text
from hut_jax.runs.workdir import check_writable

Study = Mapping[Cell, list[Record]]


def of_ranks(records: Sequence[Record], ranks: Sequence[int]) -> Study:
    """The runs that count, of each method; of those that have a rank only these ranks, where any are given."""
    cells = by_cell(at_best_rates(in_order(records)))
    return {key: group for key, group in cells.items() if not ranks or key.rank is None or key.rank in ranks}


def by_name(workdirs: Sequence[Path], ranks: Sequence[int]) -> dict[str, Study]:
    """The studies of these folders, by the folders' names: `sst2`, or `minilm/sst2` where another is called so, too.

    Raises:
        UserError: a folder has no records, or none of these ranks, or is given twice.
    """
    studies: dict[str, Study] = {}
    for name, workdir in _named(workdirs).items():
        records = read_study(workdir)
        studies[name] = of_ranks(records, ranks)
        if not studies[name]:
            there = sorted({key.rank for key in by_cell(records) if key.rank is not None})
            raise UserError(f"--ranks: {workdir} has runs of the ranks {', '.join(map(str, there))} only")
    return studies


def _named(workdirs: Sequence[Path]) -> dict[str, Path]:
    """Each folder by as many of its path's last parts as tell it from the others."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    twice = next((workdir for workdir, those in zip(workdirs, parts, strict=True) if parts.count(those) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is given twice; give each study once")

    def name(own: tuple[str, ...]) -> str:
        ends = (own[-length:] for length in range(1, len(own) + 1))
        return "/".join(next(end for end in ends if sum(those[-len(end) :] == end for those in parts) == 1))

    return {name(own): workdir for own, workdir in zip(parts, workdirs, strict=True)}


def scores_table(studies: Mapping[str, Study]) -> str:
    """Mean and standard deviation of each task, in Markdown, and the mean place where a method has all tasks."""
    shared = [key for key in _keys(studies) if all(key in study and _whole(study, key) for study in studies.values())]
    places = [_places(study, shared) for study in studies.values()]
    lines = _head([*map(_title, studies, studies.values()), "place"])
    for key in _keys(studies):
        mean = f"{statistics.mean(place[key] for place in places):.1f}" if key in shared else "-"
        lines.append("| " + " | ".join([str(key), *(_score(study, key) for study in studies.values()), mean]) + " |")
    return "\n".join(lines)


def differences_table(studies: Mapping[str, Study], peer: str = PEER) -> str:
    """The differences to the peer of each task, in Markdown."""
    lines = _head([*map(_title, studies, studies.values())])
    for key in _keys(studies):
        found = [against_peer(study.get(key, []), peers_of(study, key, peer)) for study in studies.values()]
        if any(found):
            lines.append("| " + " | ".join([str(key), *map(show_difference, found)]) + " |")
    return "\n".join(lines)


def differences_picture(studies: Mapping[str, Study], path: Path, peer: str = PEER) -> None:
    """The differences to the peer, SVG and PNG: the mean, and a bar from the least to the most of the seeds."""
    axes, figure = subplots(len(studies))
    keys = [key for key in _keys(studies) if any(peers_of(study, key, peer) for study in studies.values())]
    for axis, (name, study) in zip(axes, studies.items(), strict=True):
        for row, key in enumerate(reversed(keys)):
            differences = [own - peer for own, peer in paired(study.get(key, []), peers_of(study, key, peer))]
            if differences:
                mean = statistics.mean(differences)
                reach = [[mean - min(differences)], [max(differences) - mean]]
                axis.errorbar([mean], [row], xerr=reach, capsize=4, **style(key.variant))
        axis.axvline(0, color="#999999", linewidth=1)
        axis.set_yticks(range(len(keys)), [str(key) if axis is axes[0] else "" for key in reversed(keys)])
        axis.set_ylim(-0.6, len(keys) - 0.4)
        axis.set_xlabel(f"{_title(name, study)}, minus {peer}'s")
    save(figure, path)


def _keys(studies: Mapping[str, Study]) -> list[Cell]:
    keys = {key for study in studies.values() for key in study}
    return sorted(keys, key=lambda key: key._replace(rank=key.rank or 0))


def _whole(study: Study, key: Cell) -> bool:
    """Whether it has as many seeds as any of its study."""
    return len(study[key]) == max(map(len, study.values()))


def _places(study: Study, keys: Sequence[Cell]) -> dict[Cell, float]:
    """Each one's place by its mean score, 1 for the best."""
    means = [statistics.mean(r.score if r.maximize else -r.score for r in study[key]) for key in keys]
    return dict(zip(keys, rankdata([-mean for mean in means]).tolist(), strict=True))


def _score(study: Study, key: Cell) -> str:
    if key not in study:
        return "-"
    seeds = len(study[key])
    few = "" if _whole(study, key) else f" ({seeds} seed{'s' * (seeds > 1)})"
    return show_spread([record.score for record in study[key]]) + few


def _title(name: str, study: Study) -> str:
    record = next(iter(study.values()))[0]
    return f"{name}, {record.headline if record.maximize else f'{record.headline} (less is better)'}"


def _head(columns: Sequence[str]) -> list[str]:
    return ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]


def main(argv: Sequence[str]) -> int:
    """The summary; returns its exit code."""
    parser = cli.Parser("experiments.summary", __doc__ or "")
    parser.add_argument("studies", nargs="+", type=Path, metavar="WORKDIR", help="of an experiment")
    parser.add_argument("--ranks", default="", help="show only these, and what has no rank")
    parser.add_argument("--peer", default=PEER, help="the method that the others are compared with, lora by default")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where tables and picture go; made if need be")
    args = parser.parse_args(argv)
    ranks = numbers("--ranks", args.ranks, int) if args.ranks else []
    if args.output:
        check_writable(args.output, "the folder of --output,")
    studies = by_name(args.studies, ranks)
    methods = [key.method for key in _keys(studies)]
    if args.peer not in methods:
        raise UserError(f"--peer: there are no runs of {args.peer!r}; {nearest(args.peer, methods)}")
    text = f"{scores_table(studies)}\n\nminus {args.peer}'s:\n\n{differences_table(studies, args.peer)}"
    print(text)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_text(args.output / "summary.md", text + "\n")
        differences_picture(studies, args.output / "summary", args.peer)
        print(f"\nin {args.output}: summary.md, summary.svg, summary.png")
    return 0


if __name__ == "__main__":
    cli.run(main)
