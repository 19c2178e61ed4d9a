"""Tables and pictures from results alone."""

import dataclasses
from xml.etree import ElementTree

import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from experiments import pictures, tables
from experiments.analysis import at_best_learning_rates, p_value, paired, to_frame
from experiments.pictures import pareto_picture, rank_picture
from experiments.report import adapters_table, main, ranks_table, trials_table
from experiments.results import write_study
from hut_jax import UserError


@pytest.fixture
def records(make):
    scores = {("hut", 1): (0.6, 0.61, 0.65), ("lora", 1): (0.58, 0.6, 0.59), ("hut", 4): (0.7, 0.71, 0.69)}
    ranked = [make(m, rank, seed, score) for (m, rank), each in scores.items() for seed, score in enumerate(each)]
    return [*ranked, make("full", None, 0, 0.8, trainable=100_000)]


def rows_of(text):
    """The cells of each row, by the row's label."""
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    return {label: cells for label, *cells in rows}


def test_a_row_has_mean_spread_and_the_paired_test(records):
    text = adapters_table(to_frame(records))
    rows = rows_of(text)
    p = ttest_1samp((0.02, 0.01, 0.06), 0).pvalue  # a paired test is that of the differences
    assert list(rows) == ["", "---", "full", "HUT, r = 4", "HUT, r = 1", "LoRA, r = 1"]  # the best first
    assert rows[""][:4] == ["learning rate", "accuracy", "seeds", "minus LoRA's (p)"]
    assert rows[""][4:] == ["parameters", "adapter, kB", "ms per step", "GFLOP per step", "peak memory, MB"]
    assert rows["HUT, r = 1"][:4] == ["1e-2", "0.620 ± 0.026", "3", f"+0.030 ({p:.2f})"]
    assert rows["HUT, r = 1"][4:] == ["1,200", "5.00", "250", "4.00", "3.00"]
    assert rows["LoRA, r = 1"][3] == ""
    assert rows["HUT, r = 4"][3] == ""  # there is no LoRA of that rank
    assert rows["full"][1:4] == ["0.800", "1", "+0.22"]  # less the only LoRA's of that seed


def test_the_test_is_scipys_paired_one(records):
    best = at_best_learning_rates(to_frame(records))
    scores = [0.6, 0.61, 0.65], [0.58, 0.6, 0.59]
    ours = p_value(paired(best, "HUT, r = 1", "lora"))
    assert ours == pytest.approx(ttest_rel(*scores).pvalue, rel=1e-12)
    assert ours != pytest.approx(ttest_ind(*scores).pvalue, rel=0.01)


def test_forgetting_and_the_scores_of_texts_have_columns_where_they_were_measured(make):
    written = {"scores": {"BLEU": 0.25, "NIST": 3.0}}
    runs = to_frame([make(forgetting={"text": "x", "before": 3.0, "after": 3.25}, evaluation=written), make("lora")])
    rows = rows_of(adapters_table(runs, columns=["score", "forgets", "NIST", "BLEU"]))
    assert rows[""] == ["accuracy", "forgets, nats", "NIST", "BLEU"]
    assert rows["HUT, r = 4"] == ["0.500", "0.250", "3.00", "0.250"]
    assert rows["LoRA, r = 4"] == ["0.500", "", "", ""]
    assert rows_of(adapters_table(runs))[""][-1] == "forgets, nats"
    with pytest.raises(UserError, match="--columns: no column 'scor'; did you mean 'score'"):
        adapters_table(runs, columns=["scor"])


def test_only_seeds_that_both_have_are_compared(make):
    own = [make(seed=seed, score=0.5 + 0.1 * seed) for seed in range(3)]
    assert paired(to_frame([*own, make("lora", seed=7)]), "HUT, r = 4", "lora").empty
    lora = [make("lora", seed=2, score=0.5), make("lora", seed=1, score=0.5)]
    differences = paired(to_frame([*own, *lora]), "HUT, r = 4", "lora")
    assert dict(differences) == {1: pytest.approx(0.1), 2: pytest.approx(0.2)}
    assert p_value(differences) is None  # of two seeds


@pytest.mark.full
@pytest.mark.parametrize(("draw", "labels"), [(rank_picture, 1), (pareto_picture, 3)])
def test_pictures_are_whole_svg_and_png(draw, labels, records, tmp_path):
    draw(to_frame(records), tmp_path / "picture")
    assert ElementTree.parse(tmp_path / "picture.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "picture.svg").read_text().count("<!-- accuracy, more is better -->") == labels


def test_trials_at_other_learning_rates_are_in_their_own_table_only(make):
    def at(multiple, seed, score, method="hut", **fields):
        record = make(method, 4, seed, score, name=f"{method},rank=4/{multiple:g}/{seed}", **fields)
        return dataclasses.replace(record, learning_rate=0.01 * multiple)

    def best(*records):
        return list(at_best_learning_rates(to_frame(records))["name"])

    final = [at(1, seed, 0.5 + 0.01 * seed) for seed in range(3)]
    trials = [at(3, 0, 0.9), at(0.3, 0, 0.2)]
    fewer = [at(1, 0, 0.5, "lora", maximize=False), at(2, 0, 0.4, "lora", maximize=False)]
    assert best(*trials, *final, *fewer) == [*(record.name for record in final), fewer[1].name]
    rows = rows_of(trials_table(to_frame([*trials, *final, *fewer])))
    assert rows[""] == ["× 0.3", "× 1", "× 2", "× 3", "× 1 is"]
    assert rows["HUT, r = 4"] == ["0.200", "0.500", "", "**0.900**", "1e-2"]
    assert rows["LoRA, r = 4"] == ["", "0.500", "**0.400**", "", "1e-2"]
    assert trials_table(to_frame(final)) == ""
    elsewhere = [at(2, seed, 0.51 + 0.3 * (seed == 2)) for seed in range(3)]
    names = [record.name for record in elsewhere]
    assert best(*final, *elsewhere) == names  # as many seeds: the one whose first seed is the best
    assert best(at(3, 0, 0.9), *final, *elsewhere) == names


def test_ranks_are_rows_beside_each_other_method(records, make):
    text = ranks_table(to_frame(records))
    rows = rows_of(text)
    assert rows["rank"] == ["HUT", "LoRA", "HUT minus LoRA (p)"]
    assert rows["1"][:2] == ["0.620 ± 0.026", "0.590 ± 0.010"]
    assert rows["1"][2].startswith("+0.030 (")
    assert rows["4"] == ["0.700 ± 0.010", "", ""]
    assert ranks_table(to_frame([make(), make("lora")])) == ""


def test_what_ran_on_another_device_than_most_is_not_compared_by_its_times(make, tmp_path, monkeypatch):
    def on(device, method, seconds):
        return [make(method, seed=seed, device=device, seconds_per_step=seconds) for seed in range(2)]

    records = [*on("1 x cpu", "hut", 0.25), *on("1 x H200", "lora", 0.001), make("hut", seed=2, device="1 x H200")]
    records.append(make("ssf", None, device="1 x cpu"))
    runs = to_frame(records)
    rows = rows_of(adapters_table(runs))
    assert rows["HUT, r = 4"][6:] == ["250", "4.00", "3.00"]
    assert rows["LoRA, r = 4"][6:] == ["", "", ""]
    note = "Times, FLOPs and memory are of the runs on 1 x cpu."
    assert adapters_table(runs).splitlines()[-1] == note
    assert note not in adapters_table(runs, columns=["score", "trainable"])
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    figures = []
    pareto_picture(runs, tmp_path / "picture")
    times, memory, parameters = (
        {line.get_label(): line.get_xdata().tolist() for line in axis.lines} for axis in figures[0].axes
    )
    assert times == {"HUT": [250], "LoRA": [], "SSF": [250]}
    assert memory == {"HUT": [3], "LoRA": [], "SSF": [3]}
    assert parameters == {"HUT": [1200], "LoRA": [1200], "SSF": [1200]}


def test_other_settings_are_rows_of_their_own(make):
    names = {
        "hut,rank=4": "HUT, r = 4",
        "hut,rank=4,shift=False": "HUT, r = 4, shift=False",
        "hut,rank=4,spread=cyclic,shift=False": "HUT, r = 4, spread=cyclic, shift=False",
        "hut,rank=4,targets=('query$','value$')": "HUT, r = 4, targets=('query$','value$')",
        "ia3,targets=()": "IA3",
    }
    records = [make(name.split(",")[0], 4 if "rank" in name else None, name=f"{name}/1/0") for name in names]
    assert list(rows_of(adapters_table(to_frame(records))))[2:] == list(names.values())


def test_without_a_rank_the_peer_is_the_only_lora(make):
    own, peer = make("ia3", None, score=0.6, name="ia3/1/0"), make("lora", 4)
    assert rows_of(adapters_table(to_frame([own, peer])))["IA3"][3] == "+0.10"
    assert rows_of(adapters_table(to_frame([own, peer, make("lora", 8)])))["IA3"][3] == ""


def test_lora_is_the_peer_with_whatever_setting_but_not_where_there_are_two(make):
    own, peer = make(score=0.6), make("lora", score=0.5, name="lora,rank=4,alpha=16/1/0")
    assert rows_of(adapters_table(to_frame([own, peer])))["HUT, r = 4"][3] == "+0.10"
    assert rows_of(adapters_table(to_frame([own, peer, make("lora")])))["HUT, r = 4"][3] == ""


def test_the_peer_may_be_one_adapter_of_a_method(make):
    plain, cyclic = make(score=0.6), make(score=0.7, name="hut,rank=4,spread=cyclic/1/0")
    rows = rows_of(adapters_table(to_frame([plain, cyclic]), peer="hut:rank=4"))
    assert rows[""][3] == "minus HUT, r = 4's (p)"
    assert (rows["HUT, r = 4"][3], rows["HUT, r = 4, spread=cyclic"][3]) == ("", "+0.10")


@pytest.mark.parametrize(
    ("mean", "shown"), [(-0.1273, "-0.13"), (0.0094, "+0.009"), (-1.49, "-1.5"), (0.5734, "+0.57"), (0.0, "+0.000")]
)
def test_a_difference_has_two_digits_but_no_more_decimals_than_its_score(mean, shown):
    assert tables.difference(pd.Series([mean]), 3) == shown


def test_how_figures_are_written():
    shown = {0.45: "0.45", 0.0503: "0.050", 0.0012: "0.001", 0.00043: "0.0004", 0.00008: "0.0001", 1e-6: "<0.0001"}
    assert {p: tables.probability(p) for p in shown} == shown
    assert [tables.learning_rate(rate) for rate in (0.00015000000000000001, 0.01, 0.3)] == ["1.5e-4", "1e-2", "3e-1"]


@pytest.mark.full
def test_the_command_shows_some_tables_of_some_adapters(records, make, tmp_path, capsys):
    cyclic = make(score=0.9, name="hut,rank=4,spread=cyclic/1/0")
    study = tmp_path / "study.jsonl"
    write_study(study, [*records, cyclic])
    main([str(study), "--table=adapters", "--columns=score", "--ranks=4", "--plain", "--peer=full"])
    assert rows_of(capsys.readouterr().out) == {
        "": ["accuracy"],
        "---": ["---"],
        "full": ["0.800"],
        "HUT, r = 4": ["0.700 ± 0.010"],
    }
    main([str(study), "--methods=hut,lora", f"--output={tmp_path / 'report'}"])
    text = (tmp_path / "report/table.md").read_text()
    assert text in capsys.readouterr().out
    assert {"HUT, r = 4, spread=cyclic", "1"} < rows_of(text).keys()
    assert ElementTree.parse(tmp_path / "report/pareto.svg").getroot().tag.endswith("svg")
    for argument, reason in {
        "--table=rank": "--table: no table 'rank'; did you mean 'ranks'",
        "--ranks=3": r"no run of .*study.jsonl is left .*; it has HUT, r = 1, HUT, r = 4",
        "--ranks=two": "--ranks=two: whole numbers above 0 are wanted",
        "--peer=hat": "--peer: there are no runs of 'hat'; did you mean 'hut'",
    }.items():
        with pytest.raises(UserError, match=reason):
            main([str(study), "--methods=hut", argument])
