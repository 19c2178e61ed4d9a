"""The tables and pictures of one study, from its results alone.

    python -m experiments.report runs/method_comparison
    python -m experiments.report results/minilm_cola.jsonl --ranks=8 --plain --table=adapters --output=runs/report

A study is the workdir of `experiments.method_comparison` or `experiments.rank_ablation`, or its JSONL. There are three
tables: `adapters` has each adapter at its best learning rate, `trials` the score at each learning rate that was tried,
and `ranks` a row for each rank and a column for each method. A difference is an adapter's score minus LoRA's, or minus
that of `--peer`. It is the mean over the seeds that both have, with the p of a paired t-test. `--output` names a
folder, which gets the tables as `table.md`, and the pictures.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments import pictures, tables
from experiments.analysis import (
    PEER,
    TEXT_SCORES,
    at_best_learning_rates,
    best_first,
    check_peer,
    choice_note,
    first_trials,
    label_of,
    paired,
    to_frame,
    usual_device,
)
from experiments.options import add_selection, selected, words
from experiments.results import read_study
from hut_jax.core import cli
from hut_jax.core.errors import UserError, nearest
from hut_jax.core.files import write_text
from hut_jax.runs.workdir import check_writable

COSTS = {
    "seconds_per_step": ("ms per step", 1e3),
    "flops_per_step": ("GFLOP per step", 1e-9),
    "peak_bytes": ("peak memory, MB", 1e-6),
}
"""Columns that depend on the device: their heading, and the factor from the record's unit."""
COLUMNS = ("learning_rate", "score", "seeds", "difference", "trainable", "adapter_bytes", *COSTS)
"""The default columns of `adapters_table`; `forgets` is one more where it was measured."""
TABLES = ("adapters", "trials", "ranks")


def adapters_table(runs: pd.DataFrame, *, peer: str = PEER, columns: Sequence[str] = ()) -> str:
    """A row for each adapter at its best learning rate, the best first: mean and deviation over seeds, and its costs.

    Costs are medians over the runs on the device that most runs had.

    Args:
        runs: of one study.
        peer: what the adapters are compared with.
        columns: from `COLUMNS`, `forgets` and `TEXT_SCORES`; none given: the default ones.

    Raises:
        UserError: there is no such column.
    """
    best = at_best_learning_rates(runs)
    groups = best.groupby("adapter", sort=False)
    device = usual_device(best)
    alike = best[best["device"] == device].groupby("adapter", sort=False)
    score_name = best["score_name"].iloc[0]
    digits = tables.digits_of(score_name)
    known = {
        "learning_rate": ("learning rate", groups["learning_rate"].first().map(tables.learning_rate)),
        "score": (score_name, groups["score"].apply(tables.spread, digits=digits)),
        "seeds": ("seeds", groups.size().map(str)),
        "difference": (f"minus {label_of(best, peer)}'s (p)", differences(best, peer)),
        "trainable": ("parameters", groups["trainable"].first().map("{:,}".format)),
        "adapter_bytes": ("adapter, kB", tables.three_digits(groups["adapter_bytes"].median() / 1e3)),
    }
    for name, (head, unit) in COSTS.items():
        known[name] = (head, tables.three_digits(unit * alike[name].median()))
    if best["forgets"].notna().any():
        known["forgets"] = ("forgets, nats", groups["forgets"].apply(tables.spread, digits=digits))
    for name in best.columns.intersection(TEXT_SCORES):
        known[name] = (name, groups[name].apply(tables.spread, digits=tables.digits_of(name)))
    for column in columns:
        if column not in known:
            raise UserError(f"--columns: no column {column!r}; {nearest(column, known)}")
    shown = columns or [name for name in known if name in COLUMNS or name == "forgets"]
    text = tables.markdown(pd.DataFrame(dict(known[name] for name in shown), best_first(best)))
    if best["device"].nunique() > 1 and not COSTS.keys().isdisjoint(shown):
        text += f"\n\nTimes, FLOPs and memory are of the runs on {device}."
    return text


def differences(best: pd.DataFrame, peer: str) -> pd.Series:
    """The difference between each adapter and the peer, as text."""
    digits = tables.digits_of(best["score_name"].iloc[0])
    return pd.Series({adapter: tables.difference(paired(best, adapter, peer), digits) for adapter in best_first(best)})


def trials_table(runs: pd.DataFrame) -> str:
    """The score at each multiple of the method's default learning rate that was tried; "" if there are no trials."""
    tried = first_trials(runs)
    if tried.empty:
        return ""
    tried = tried.assign(
        text=trial_texts(tried),
        own=(tried["learning_rate"] / tried["learning_rate_multiple"]).map(tables.learning_rate),
    )
    table = tried.pivot(index="adapter", columns="learning_rate_multiple", values="text")
    table.columns = [f"× {multiple:g}" for multiple in table.columns]
    table["× 1 is"] = tried.groupby("adapter")["own"].first()
    order = [one for one in best_first(at_best_learning_rates(runs)) if one in table.index]
    return tables.markdown(table.loc[order].rename_axis(None))


def trial_texts(tried: pd.DataFrame) -> pd.Series:
    """The score of each trial, with each adapter's best one bold."""
    digits = tables.digits_of(tried["score_name"].iloc[0])
    texts = tried["score"].map(f"{{:.{digits}f}}".format)
    best = tried.groupby("adapter")["merit"].transform("idxmax")
    return texts.where(tried.index != best, "**" + texts + "**")


def ranks_table(runs: pd.DataFrame, *, peer: str = PEER) -> str:
    """A row for each rank, a column for each method, and the first method minus the peer; "" for one rank."""
    best = at_best_learning_rates(runs)
    ranked = best[best["rank"].notna()]
    if ranked["rank"].nunique() < 2:
        return ""
    digits = tables.digits_of(best["score_name"].iloc[0])
    cells = ranked.groupby(["rank", "variant"])["score"].apply(tables.spread, digits=digits)
    table = cells.unstack()[list(ranked["variant"].unique())]
    others = ranked[ranked["method"] != peer]
    if len(others) and peer in set(ranked["method"]):
        first = others["variant"].iloc[0]
        own = others[others["variant"] == first].drop_duplicates("rank").set_index("rank")["adapter"]
        minus = own.map(lambda adapter: tables.difference(paired(best, adapter, peer), digits))
        table[f"{first} minus {label_of(best, peer)} (p)"] = minus
    return tables.markdown(table.rename_axis(columns=None))


def make(runs: pd.DataFrame, *, peer: str = PEER, columns: Sequence[str] = (), names: Sequence[str] = TABLES) -> str:
    """The tables of these names, if the study has runs for them, and how its learning rates were chosen."""
    made = {
        "adapters": lambda: adapters_table(runs, peer=peer, columns=columns),
        "trials": lambda: trials_table(runs),
        "ranks": lambda: ranks_table(runs, peer=peer),
    }
    note = choice_note(runs) if {"adapters", "ranks"} & {*names} else ""
    return "\n\n".join(filter(None, (*(made[name]() for name in names), note)))


def write(runs: pd.DataFrame, text: str, folder: Path) -> None:
    """Print the tables, and write them and the pictures to the folder."""
    best = at_best_learning_rates(runs)
    write_text(folder / "table.md", text + "\n")
    pictures.rank_picture(runs, folder / "rank")
    pictures.pareto_picture(best, folder / "pareto")
    print(f"{text}\n\nin {folder}: table.md, rank.svg, rank.png, pareto.svg, pareto.png")


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = cli.Parser("experiments.report", __doc__ or "")
    parser.add_argument("study", type=Path, metavar="STUDY", help="a workdir, or a JSONL")
    parser.add_argument("--table", default="", help=f"some of {', '.join(TABLES)}; default: all that the study has")
    parser.add_argument("--columns", default="", help=f"of the table of adapters: {', '.join(COLUMNS)}, forgets, BLEU")
    add_selection(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where tables and pictures go; made if need be")
    args = parser.parse_args(argv)
    names = words(args.table) or TABLES
    for name in names:
        if name not in TABLES:
            raise UserError(f"--table: no table {name!r}; {nearest(name, TABLES)}")
    if args.output:
        check_writable(args.output, "the folder of --output,")
    runs = selected(str(args.study), to_frame(read_study(args.study)), args)
    check_peer(args.peer, runs)
    text = make(runs, peer=args.peer, columns=words(args.columns), names=names)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write(runs, text, args.output)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    cli.run(main)
