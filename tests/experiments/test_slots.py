"""Which slots a text has right, by hand and on the texts of others."""

import csv

import pytest

from experiments.slots import Facts, main
from hut_jax import UserError
from hut_jax.data.e2e.csv_files import FILES, read_records
from hut_jax.data.e2e.dataset import references

MR = (
    "name[The Mill], eatType[pub], food[Indian], priceRange[less than £20], customer rating[low], "
    "area[riverside], familyFriendly[no], near[Café Rouge]"
)
RIGHT = "The Mill is a cheap, one star Indian pub by the river near Cafe Rouge, and is not suitable for children."
FACTS = Facts([MR, "name[The Eagle], near[Raja Indian Cuisine]"])


@pytest.mark.parametrize(
    ("said", "instead", "slot"),
    [
        ("The Mill", "The Eagle", "name"),
        ("pub", "coffee shop", "eatType"),
        ("Indian", "French", "food"),
        ("cheap", "expensive", "priceRange"),
        ("one star", "5 out of 5", "customer rating"),
        ("by the river", "in the city centre", "area"),
        ("not suitable for children", "family friendly", "familyFriendly"),
        ("near Cafe Rouge", "near Raja Indian Cuisine", "near"),
        ("cheap", "moderately priced but cheap", "priceRange"),  # a second value beside the right one
        ("by the river", "in the open", "area"),
    ],
)
def test_a_slot_is_wrong_if_its_value_is_missing_or_another_is_said(said, instead, slot):
    assert not any(FACTS.wrong(MR, RIGHT).values())
    assert [one for one, wrong in FACTS.wrong(MR, RIGHT.replace(said, instead)).items() if wrong] == [slot]


def test_what_was_not_to_be_said_is_wrong_and_a_landmark_says_no_food():
    mr = "name[The Eagle], eatType[restaurant], near[Raja Indian Cuisine]"
    assert not any(FACTS.wrong(mr, "The Eagle is a restaurant near Raja Indian Cuisine.").values())
    wrong = FACTS.wrong(mr, "The Eagle is a Chinese restaurant near Raja Indian Cuisine.")
    assert wrong == {"name": False, "near": False, "eatType": False, "food": True}
    scores = FACTS.score([mr, mr], ["The Eagle is a restaurant near Raja Indian Cuisine.", "The Mill is a pub."])
    assert scores.slots == 3 / 6
    assert (scores.texts, scores.by_slot["name"]) == (0.5, 0.5)
    with pytest.raises(UserError, match="1 meaning representations and 0 texts"):
        FACTS.score([mr], [])


@pytest.mark.full
def test_a_system_of_the_challenge_says_nearly_all_slots_and_another_order_of_its_texts_does_not(
    real_data, tmp_path, capsys
):
    mrs = list(references(read_records(real_data / "e2e" / FILES["test"])))
    with open(real_data / "e2e_systems/test-tgen.tsv", encoding="utf-8", newline="") as file:
        tgen = {row["MR"]: row["output"] for row in csv.DictReader(file, delimiter="\t")}
    for name, order in (("tgen", mrs), ("shifted", mrs[315:] + mrs[:315])):
        (tmp_path / name).write_text("".join(f"{tgen[mr]}\n" for mr in order))
    main([str(real_data / "e2e"), str(tmp_path / "tgen"), str(tmp_path / "shifted")])
    _, _, people, right, shifted = (line.split(" | ") for line in capsys.readouterr().out.splitlines())
    assert (people[0], people[1], right[1]) == ("| human references", "90.4 %", "96.5 %")
    assert float(shifted[1].removesuffix(" %")) < 60
    assert (right[3], shifted[3]) == ("100.0 %", "0.0 %")
