"""Tables and pictures from records alone."""

import dataclasses
from xml.etree import ElementTree

import pytest
from scipy.stats import ttest_1samp

from experiments.report import against_peer, at_best_rates, pareto_picture, rank_picture, rates_table, table


@pytest.fixture
def records(make):
    scores = {("hut", 1): (0.6, 0.61, 0.65), ("lora", 1): (0.58, 0.6, 0.59), ("hut", 4): (0.7, 0.71, 0.69)}
    ranked = [make(m, rank, seed, score) for (m, rank), each in scores.items() for seed, score in enumerate(each)]
    return [*ranked, make("full", None, 0, 0.8, trainable=100_000)]


def test_a_row_has_mean_spread_and_the_paired_test(records):
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table(records).splitlines()}
    differences = (0.02, 0.01, 0.06)
    p = ttest_1samp(differences, 0).pvalue  # a paired test is that of the differences
    assert rows["hut, r = 1"][1:5] == ["0.01", "0.62 ± 0.026", "3", f"+0.03 ({p:.2g})"]
    assert rows["hut, r = 1"][5:] == ["1,200", "5", "250.0", "4.00", "3 |"]
    assert rows["lora, r = 1"][4] == "-"
    assert rows["hut, r = 4"][4] == "-"  # there is no LoRA of that rank
    assert rows["full"][2:5] == ["0.8", "1", "+0.22"]  # less the only LoRA's of that seed
    assert "forgets" not in table(records)


def test_forgetting_has_a_column_where_it_was_measured(make):
    text = table([make(forgetting={"text": "x", "before": 3.0, "after": 3.25}), make("lora")])
    assert text.splitlines()[2].endswith("| 0.25 |")
    assert text.splitlines()[3].endswith("| - |")


def test_only_seeds_that_both_have_are_compared(make):
    own = [make(seed=seed, score=0.5 + 0.1 * seed) for seed in range(3)]
    assert against_peer(own, [make("lora", seed=7)]) is None
    difference, p = against_peer(own, [make("lora", seed=2, score=0.5), make("lora", seed=1, score=0.5)])
    assert difference == pytest.approx(0.15)
    assert p is None  # of two seeds


@pytest.mark.parametrize(("draw", "labels"), [(rank_picture, 1), (pareto_picture, 3)])
def test_pictures_are_whole_svg_and_png(draw, labels, records, tmp_path):
    draw(records, tmp_path / "picture")
    assert ElementTree.parse(tmp_path / "picture.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "picture.svg").read_text().count("<!-- accuracy, more is better -->") == labels


def test_trials_at_other_rates_are_in_their_own_table_only(make):
    def at(rate, seed, score, method="hut", **fields):
        record = make(method, 4, seed, score, **fields)
        return dataclasses.replace(record, config=record.config | {"train.learning_rate": rate})

    final = [at(0.1, seed, 0.5 + 0.01 * seed) for seed in range(3)]
    trials = [at(0.3, 0, 0.9), at(0.03, 0, 0.2)]
    fewer = [at(0.1, 0, 0.5, "lora", maximize=False), at(0.2, 0, 0.4, "lora", maximize=False)]
    assert at_best_rates([*trials, *final, *fewer]) == [*final, fewer[1]]
    assert rates_table([*trials, *final, *fewer]).splitlines()[2:] == [
        "| hut, r = 4 | 0.2 at 0.03; 0.5 at 0.1; **0.9** at 0.3 |",
        "| lora, r = 4 | 0.5 at 0.1; **0.4** at 0.2 |",
    ]
    assert rates_table(final) == ""
    elsewhere = [at(0.2, seed, 0.51 + 0.3 * (seed == 2)) for seed in range(3)]
    assert at_best_rates([*final, *elsewhere]) == elsewhere  # as many seeds: that of the first one's best
    assert at_best_rates([at(0.3, 0, 0.9), *final, *elsewhere]) == elsewhere


def test_what_ran_on_another_device_than_most_is_not_compared_by_its_times(make, tmp_path):
    def on(device, method, seconds):
        return [make(method, seed=seed, device=device, seconds_per_update=seconds) for seed in range(2)]

    records = [*on("1 x cpu", "hut", 0.25), *on("1 x H200", "lora", 0.001), make("hut", seed=2, device="1 x H200")]
    records.append(make("ssf", None, device="1 x cpu"))
    rows = table(records).splitlines()
    assert rows[2].split(" | ")[7:] == ["250.0", "4.00", "3 |"]
    assert rows[3].split(" | ")[7:] == ["-", "-", "- |"]
    assert rows[-1] == "Times, FLOPs and memory are of the runs on 1 x cpu."
    pareto_picture(records, tmp_path / "picture")
    assert (tmp_path / "picture.png").exists()


def test_other_settings_are_rows_of_their_own(make):
    names = {
        "hut,rank=4": "hut, r = 4",
        "hut,rank=4,spread=cyclic,shift=False": "hut, r = 4, spread=cyclic, shift=False",
        "hut,rank=4,targets=('query$','value$')": "hut, r = 4, targets=('query$','value$')",
        "ia3,targets=()": "ia3",
    }
    records = [make(name.split(",")[0], 4 if "rank" in name else None, name=f"{name}/1/0") for name in names]
    rows = [line.split(" | ")[0].strip("| ") for line in table(records).splitlines()[2:]]
    assert rows == list(names.values())


def test_without_a_rank_the_peer_is_the_only_lora(make):
    own, peer = make("ia3", None, score=0.6, name="ia3/1/0"), make("lora", 4)
    assert table([own, peer]).splitlines()[2].split(" | ")[4] == "+0.1"
    assert table([own, peer, make("lora", 8)]).splitlines()[2].split(" | ")[4] == "-"


def test_lora_is_the_peer_with_whatever_setting_but_not_where_there_are_two(make):
    own, peer = make(score=0.6), make("lora", score=0.5, name="lora,rank=4,alpha=16/1/0")
    assert table([own, peer]).splitlines()[2].split(" | ")[4] == "+0.1"
    assert table([own, peer, make("lora")]).splitlines()[2].split(" | ")[4] == "-"
