"""Runs as a data frame: which of them count, and how adapters differ."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd
from scipy.stats import ttest_1samp

from experiments.record import Record
from hut_jax.core.errors import UserError, nearest

PEER = "lora"
"""The method that others are compared with."""
LABELS = {
    "hut": "HUT", "lora": "LoRA", "hira": "HiRA", "dora": "DoRA", "ia3": "IA3", "ssf": "SSF", "bitfit": "BitFit",
    "layernorm": "LayerNorm", "loha": "LoHa", "lora_plus": "LoRA+",
}  # fmt: skip
"""The names of methods in tables and pictures, in their order; other methods follow under their own names."""
FIELDS = (
    "name", "method", "rank", "settings", "learning_rate", "learning_rate_multiple", "seed", "score_name", "score",
    "maximize", "trainable", "adapter_bytes", "seconds_per_step", "flops_per_step", "peak_bytes", "device",
)  # fmt: skip
"""The fields of a record that are columns."""
TEXT_SCORES = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")
"""The scores of the texts that a run wrote; a score is a column if a run has it."""


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """A row for each run, sorted by adapter and seed.

    The columns are `FIELDS`, `TEXT_SCORES` and

    - `variant`: the method with its settings, such as "HUT, spread=cyclic"
    - `adapter`: the same with its rank, such as "HUT, r = 8, spread=cyclic"
    - `spec`: the adapter as the command line has it, such as "hut:rank=8:spread=cyclic"
    - `merit`: the score, or minus it where less is better
    - `forgets`: by how much the loss on a text has grown
    - `holdout`: the share of the training data that a run was scored on to choose a learning rate; 0: it is reported
    - `task`, `base`, `steps`: the run's
    """
    runs = pd.DataFrame(
        {field: getattr(record, field) for field in FIELDS}
        | {"holdout": record.config.get("eval.holdout", 0.0), "task": record.config.get("task", "")}
        | {"base": record.base["name"], "steps": max((line["step"] for line in record.metrics), default=0)}
        | {"forgets": record.forgetting["after"] - record.forgetting["before"] if record.forgetting else None}
        | (record.evaluation or {}).get("scores", {})
        for record in records
    )
    runs["rank"] = runs["rank"].astype("Int64")
    runs["forgets"] = runs["forgets"].astype(float)
    runs["spec"] = [re.sub(r",(?=\w+=)", ":", name.rsplit("/", 2)[0]) for name in runs["name"]]
    labels = runs["method"].map(lambda method: LABELS.get(method, method))
    ranks = ["" if pd.isna(rank) else f", r = {rank}" for rank in runs["rank"]]
    settings = runs["settings"].map(lambda text: f", {text}" if text else "")
    runs["variant"], runs["adapter"] = labels + settings, labels + ranks + settings
    runs["merit"] = runs["score"].where(runs["maximize"], -runs["score"])
    order = runs.assign(position=runs["method"].map({method: position for position, method in enumerate(LABELS)}))
    by = ["position", "method", "rank", "settings", "seed"]
    return runs.iloc[order.sort_values(by, na_position="last").index].reset_index(drop=True)


def select(
    runs: pd.DataFrame, *, methods: Sequence[str] = (), ranks: Sequence[int] = (), plain: bool = False
) -> pd.DataFrame:
    """The runs of some adapters.

    Args:
        runs: from `to_frame`.
        methods: only these; none given: all.
        ranks: only these, and adapters without a rank; none given: all.
        plain: only adapters that have no settings except a rank.
    """
    chosen = pd.Series(True, index=runs.index)
    if methods:
        chosen &= runs["method"].isin(methods)
    if ranks:
        chosen &= runs["rank"].isna() | runs["rank"].isin(ranks)
    if plain:
        chosen &= runs["settings"] == ""
    return runs[chosen]


def at_best_learning_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of each adapter at its best learning rate: the one with the most seeds.

    If several have equally many seeds, it is the one whose first seed has the best score. Runs that chose the learning
    rate on training data do not count. In studies of earlier versions those at other learning rates have one seed, so
    they do not count, either.
    """
    runs = runs[runs["holdout"] == 0]
    tried = runs.groupby(["adapter", "learning_rate"], sort=False).agg(seeds=("seed", "size"), merit=("merit", "first"))
    best = tried.sort_values(["seeds", "merit"], ascending=False).reset_index().drop_duplicates("adapter")
    return runs.merge(best[["adapter", "learning_rate"]])


def first_trials(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that chose among several learning rates.

    Where no run was scored on training data to choose, they are those of the first seed.
    """
    chose = runs[runs["holdout"] > 0]
    others = runs[~runs["adapter"].isin(chose["adapter"])]
    first = pd.concat([chose, others.drop_duplicates(["adapter", "learning_rate"])]).sort_index()
    return first[first.groupby("adapter")["learning_rate"].transform("size") > 1]


def choice_note(runs: pd.DataFrame) -> str:
    """How the learning rates of a study were chosen, in a sentence or a few.

    Args:
        runs: from `to_frame`, all of a study's.
    """
    best = at_best_learning_rates(runs).drop_duplicates("adapter")
    tried = first_trials(runs)
    said: dict[str, list[str]] = {}
    at_the_edge = []
    for adapter, chosen in zip(best["adapter"], best["learning_rate"], strict=True):
        trials = tried[tried["adapter"] == adapter]
        share = trials["holdout"].max()
        if trials.empty or (share and chosen != trials["learning_rate"][trials["merit"].idxmax()]):
            how = "at a learning rate given by hand (--rates), not chosen"
        else:
            where = f"another seed on {100 * share:.0f} % of the training data" if share else "the first seed on dev"
            how = f"at the best of its own learning rates, chosen with {where}"
            if chosen in (trials["learning_rate"].min(), trials["learning_rate"].max()):
                at_the_edge.append(adapter)
        said.setdefault(how, []).append(adapter)
    notes = [f"{'; '.join(own) if len(said) > 1 else 'Each adapter'}: {how}." for how, own in said.items()]
    if at_the_edge:
        notes.append(f"The best is the lowest or highest that was tried for {'; '.join(at_the_edge)}.")
    return " ".join(notes)


def usual_device(runs: pd.DataFrame) -> str:
    """The device that most of the runs had."""
    return str(runs["device"].value_counts().index[0])


def best_first(runs: pd.DataFrame) -> list[str]:
    """The adapters, sorted by their mean scores."""
    means = runs.groupby("adapter", sort=False)["merit"].mean()
    return list(means.sort_values(ascending=False, kind="stable").index)


def paired(runs: pd.DataFrame, adapter: str, peer: str) -> pd.Series:
    """An adapter's scores minus the peer's, for the seeds that both have.

    If both have a rank, the peer's runs are those of the same rank. The result is empty for the peer itself, and if two
    adapters have the peer's method.

    Args:
        runs: of one study, at the best learning rates.
        adapter: as in the column of this name.
        peer: a method, such as lora, or an adapter as the command line has it, such as hut:rank=8.
    """
    own = runs[runs["adapter"] == adapter]
    rank = own["rank"].max()
    alike = runs["rank"].isna() | (pd.isna(rank) | (runs["rank"] == rank))
    theirs = runs[(runs["spec"] == peer) | ((runs["method"] == peer) & alike)]
    is_peer = peer in {*own["method"], *own["spec"]}
    if is_peer or theirs["adapter"].nunique() != 1:
        theirs = theirs[:0]
    return (own.set_index("seed")["score"] - theirs.set_index("seed")["score"]).dropna()


def label_of(runs: pd.DataFrame, peer: str) -> str:
    """The peer's name in tables."""
    return next(iter(runs["adapter"][runs["spec"] == peer]), LABELS.get(peer, peer))


def p_value(differences: pd.Series) -> float | None:
    """The p of a paired t-test; None for fewer than three seeds, or if all have the same difference."""
    if len(differences) < 3 or differences.nunique() == 1:
        return None
    return float(ttest_1samp(differences, 0).pvalue)


def check_peer(peer: str, runs: pd.DataFrame) -> None:
    """Check that a peer other than the default is among the runs.

    Raises:
        UserError: it is not.
    """
    known = {*runs["method"], *runs["spec"]}
    if peer not in known | {PEER}:
        raise UserError(f"--peer: there are no runs of {peer!r}; {nearest(peer, sorted(known))}")
