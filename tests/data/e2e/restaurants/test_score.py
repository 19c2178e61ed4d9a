import pytest

from hut_jax.core.errors import UserError
from hut_jax.data.e2e.restaurants import score_facts

MRS = ["name[Tame Otter], food[Welsh]", "name[Proud Crab], eatType[diner], familyFriendly[no]"]


def test_names_and_slots_are_counted():
    right = ["Tame Otter serves Welsh food.", "Proud Crab is an adults-only diner."]
    assert score_facts(MRS, right) == (1.0, 1.0)
    assert score_facts(MRS, ["", ""]) == (0.0, 0.0)
    # Of five slots and one that was added, the name, the added one and a missing one are wrong.
    names, slots = score_facts(MRS, ["Tame Otter serves Welsh food.", "Proud Crow is a diner by the harbour."])
    assert (names, slots) == (0.5, pytest.approx(3 / 6))


def test_each_meaning_has_one_text():
    with pytest.raises(UserError, match="2 meaning representations and 1 texts"):
        score_facts(MRS, ["Tame Otter"])
    with pytest.raises(UserError, match="0 meaning"):
        score_facts([], [])
