"""Several studies side by side."""

from shutil import copytree
from xml.etree import ElementTree

import pytest
from scipy.stats import ttest_rel

from experiments.record import write_record
from experiments.summary import main
from hut_jax import UserError

SCORES = {"hut": (0.6, 0.65, 0.61), "lora": (0.5, 0.52, 0.51), "full": (0.7, 0.7, 0.71)}


@pytest.fixture
def studies(make, tmp_path):
    """Two, of accuracy and of a loss; the second has no full fine-tuning, and HUT of another rank beside."""
    for folder in ("one", "other"):
        loss = folder == "other"
        for method, scores in SCORES.items():
            for rank in {"hut": (4, 16), "lora": (4,), "full": (None,)}[method]:
                if loss and method == "full":
                    continue
                name = method if rank is None else f"{method},rank={rank}"
                for seed, score in enumerate(scores[:2] if (loss, rank) == (True, 16) else scores):
                    record = make(method, rank, seed, score, name=f"{name}/1/{seed}", maximize=not loss)
                    place = tmp_path / folder / record.name
                    place.mkdir(parents=True)
                    write_record(place, record)
    return [str(tmp_path / "one"), str(tmp_path / "other")]


def test_scores_places_and_differences_stand_side_by_side(studies, tmp_path, capsys):
    assert main([*studies, "--ranks=4", f"--output={tmp_path / 'summary'}"]) == 0
    scores, differences = (tmp_path / "summary/summary.md").read_text().split("\n\nminus lora's:\n\n")
    p = ttest_rel(SCORES["hut"], SCORES["lora"]).pvalue
    assert scores.splitlines()[0] == "| | one, accuracy | other, accuracy (less is better) | place |"
    assert scores.splitlines()[2:] == [
        "| full | 0.7033 ± 0.0058 | - | - |",
        "| hut, r = 4 | 0.62 ± 0.026 | 0.62 ± 0.026 | 1.5 |",  # of the two that both studies have: first, second
        "| lora, r = 4 | 0.51 ± 0.01 | 0.51 ± 0.01 | 1.5 |",
    ]
    assert differences.splitlines()[0] == "| | one, accuracy | other, accuracy (less is better) |"
    assert differences.splitlines()[2].startswith("| full | +0.19 (")
    assert differences.splitlines()[3] == f"| hut, r = 4 | +0.11 ({p:.2g}) | +0.11 ({p:.2g}) |"
    assert ElementTree.parse(tmp_path / "summary/summary.svg").getroot().tag.endswith("svg")
    assert scores in capsys.readouterr().out


def test_the_peer_may_be_any_method(studies, capsys):
    main([*studies, "--ranks=4", "--peer=hut"])
    text = capsys.readouterr().out.split("minus hut's:\n\n")[1]
    p = ttest_rel(SCORES["lora"], SCORES["hut"]).pvalue
    assert f"| lora, r = 4 | -0.11 ({p:.2g}) | -0.11 ({p:.2g}) |" in text
    assert "| full | +0.083 (" in text
    assert "| hut" not in text


def test_without_ranks_all_are_shown(studies, capsys):
    main(studies)
    assert "| hut, r = 16 | 0.62 ± 0.026 | 0.625 ± 0.035 (2 seeds) | - |" in capsys.readouterr().out


def test_studies_of_one_name_are_told_apart_by_the_folders_above(studies, tmp_path, capsys):
    (tmp_path / "again").mkdir()
    (tmp_path / "again/one").symlink_to("../one")
    copytree(tmp_path / "other", tmp_path / "again/other")
    main([*studies, str(tmp_path / "again/other"), "--ranks=4"])
    head = capsys.readouterr().out.splitlines()[0]
    loss = "accuracy (less is better)"
    assert head == f"| | one, accuracy | {tmp_path.name}/other, {loss} | again/other, {loss} | place |"
    with pytest.raises(UserError, match="one is given twice"):
        main([studies[0], str(tmp_path / "again/one")])  # the same folder by another path


def test_what_cannot_be_shown_is_one_line(studies, tmp_path):
    with pytest.raises(UserError, match=r"no run's record.json in .*nothing"):
        main([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match=r"--ranks: .*other has runs of the ranks 4, 16 only"):
        main([studies[1], "--ranks=3"])
    with pytest.raises(UserError, match="--peer: there are no runs of 'hat'; did you mean 'hut'"):
        main([studies[0], "--peer=hat"])
    with pytest.raises(UserError, match="one is given twice; give each study once"):
        main([studies[0], studies[1], studies[0]])
