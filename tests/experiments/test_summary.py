"""Several studies side by side."""

from shutil import copyfile
from xml.etree import ElementTree

import pytest
from scipy.stats import ttest_rel

from experiments.results import write_study
from experiments.summary import main
from hut_jax import UserError

SCORES = {"hut": (0.6, 0.65, 0.61), "lora": (0.5, 0.52, 0.51), "full": (0.7, 0.7, 0.71)}


@pytest.fixture
def studies(make, tmp_path):
    """Two, of accuracy and of a loss; the second has no full fine-tuning, and HUT of another rank beside."""
    for study in ("one", "other"):
        loss = study == "other"
        records = []
        for method, scores in SCORES.items():
            for rank in {"hut": (4, 16), "lora": (4,), "full": (None,)}[method]:
                if loss and method == "full":
                    continue
                for seed, score in enumerate(scores[:2] if (loss, rank) == (True, 16) else scores):
                    records.append(make(method, rank, seed, score, maximize=not loss))
        write_study(tmp_path / f"{study}.jsonl", records)
    return [str(tmp_path / "one.jsonl"), str(tmp_path / "other.jsonl")]


@pytest.mark.full
def test_scores_places_and_differences_stand_side_by_side(studies, tmp_path, capsys):
    assert main([*studies, "--ranks=4", f"--output={tmp_path / 'summary'}"]) == 0
    scores, differences = (tmp_path / "summary/summary.md").read_text().split("\n\nminus LoRA's:\n\n")
    p = ttest_rel(SCORES["hut"], SCORES["lora"]).pvalue
    assert scores.splitlines()[0] == "| | one, accuracy | other, accuracy (less is better) | mean position |"
    assert scores.splitlines()[2:] == [
        "| HUT, r = 4 | 0.620 ± 0.026 | 0.620 ± 0.026 | 1.5 |",  # of the two that both studies have: first, second
        "| LoRA, r = 4 | 0.510 ± 0.010 | 0.510 ± 0.010 | 1.5 |",
        "| full | 0.703 ± 0.006 | | |",
    ]
    assert differences.splitlines()[0] == "| | one, accuracy | other, accuracy (less is better) |"
    assert differences.splitlines()[2] == f"| HUT, r = 4 | +0.11 ({p:.3f}) | +0.11 ({p:.3f}) |"
    assert differences.splitlines()[3].startswith("| full | +0.19 (")
    assert ElementTree.parse(tmp_path / "summary/summary.svg").getroot().tag.endswith("svg")
    assert scores in capsys.readouterr().out


def test_equal_means_share_a_place(make, tmp_path, capsys):
    third = [make("hira", seed=seed, score=score) for seed, score in enumerate((0.1, 0.2, 0.3))]
    other = [make("hut", seed=seed, score=score) for seed, score in enumerate((0.3, 0.1, 0.2))]
    write_study(tmp_path / "one.jsonl", [*third, *other, *(make("lora", seed=seed) for seed in range(3))])
    main([str(tmp_path / "one.jsonl"), "--table=scores"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.rsplit(" | ", 1)[1] for row in rows] == ["1.0 |", "2.5 |", "2.5 |"]


def test_the_peer_may_be_any_method(studies, capsys):
    main([*studies, "--ranks=4", "--peer=hut"])
    text = capsys.readouterr().out.split("minus HUT's:\n\n")[1]
    p = ttest_rel(SCORES["lora"], SCORES["hut"]).pvalue
    assert f"| LoRA, r = 4 | -0.11 ({p:.3f}) | -0.11 ({p:.3f}) |" in text
    assert "| full | +0.083 (" in text
    assert "| HUT" not in text


def test_without_ranks_all_are_shown(studies, capsys):
    main(studies)
    assert "| HUT, r = 16 | 0.620 ± 0.026 | 0.625 ± 0.035 (2 seeds) | |" in capsys.readouterr().out


def test_scores_and_differences_may_be_one_table(studies, capsys):
    main([*studies, "--ranks=4", "--peer=hut:rank=4", "--table=both"])
    head, _, hut, lora, _ = capsys.readouterr().out.splitlines()
    assert head.startswith(
        "| | one, accuracy | one, accuracy, minus HUT, r = 4's (p) | other, accuracy (less is better) |"
    )
    assert hut == "| HUT, r = 4 | 0.620 ± 0.026 | | 0.620 ± 0.026 | |"
    assert lora.startswith("| LoRA, r = 4 | 0.510 ± 0.010 | -0.11 (")


def test_each_seed_and_each_trial_may_be_shown(studies, make, tmp_path, capsys):
    main([*studies, "--methods=full,hut", "--ranks=4", "--table=seeds"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        "| HUT, r = 4 | 0.620 (0.600 / 0.650 / 0.610; 1e-2) | 0.620 (0.600 / 0.650 / 0.610; 1e-2) |",
        "| full | 0.703 (0.700 / 0.700 / 0.710; 1e-2) | |",
    ]
    trials = [
        make(score=score, name=f"hut,rank=4/{at:g}/0", learning_rate=at / 100) for at, score in ((1, 0.6), (3, 0.5))
    ]
    write_study(tmp_path / "third.jsonl", trials)
    main([*studies, str(tmp_path / "third.jsonl"), "--table=trials"])
    assert capsys.readouterr().out.splitlines() == [
        "| | learning rate | third, accuracy |",
        "|---|---|---|",
        "| HUT, r = 4 | 1e-2 | **0.600** |",
        "| HUT, r = 4 | 3e-2 | 0.500 |",
    ]
    with pytest.raises(UserError, match="no adapter of these studies was tried at several learning rates"):
        main([*studies, "--table=trials"])


def test_studies_of_one_name_are_told_apart_by_the_folders_above(studies, tmp_path, capsys):
    (tmp_path / "again").mkdir()
    (tmp_path / "again/one.jsonl").symlink_to("../one.jsonl")
    copyfile(tmp_path / "other.jsonl", tmp_path / "again/other.jsonl")
    main([*studies, str(tmp_path / "again/other.jsonl"), "--ranks=4"])
    head = capsys.readouterr().out.splitlines()[0]
    loss = "accuracy (less is better)"
    assert head == f"| | one, accuracy | {tmp_path.name}/other, {loss} | again/other, {loss} | mean position |"
    with pytest.raises(UserError, match=r"one\.jsonl is given twice"):
        main([studies[0], str(tmp_path / "again/one.jsonl")])  # the same file by another path


def test_what_cannot_be_shown_is_one_line(studies, tmp_path):
    with pytest.raises(UserError, match=r"nothing: No such file"):
        main([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match=r"no run of other is left by .*; it has HUT, r = 4, HUT, r = 16, LoRA, r = 4"):
        main([studies[1], "--ranks=3"])
    with pytest.raises(UserError, match="--peer: there are no runs of 'hat'; did you mean 'hut'"):
        main([studies[0], "--peer=hat"])
    with pytest.raises(UserError, match="--table: no table 'score'; did you mean 'scores'"):
        main([studies[0], "--table=score"])
    with pytest.raises(UserError, match=r"one\.jsonl is given twice; give each study once"):
        main([studies[0], studies[1], studies[0]])
