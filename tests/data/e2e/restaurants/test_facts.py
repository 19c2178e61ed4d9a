import pytest

from hut_jax.data.e2e.restaurants import facts_in, parse_mr, show_mr, wrong_slots

MR = "name[Tin Otter], eatType[bistro], food[Welsh], priceRange[upscale], near[Rowan Court]"


def test_a_meaning_representation_is_read_and_written():
    assert parse_mr(MR) == {
        "name": "Tin Otter",
        "eatType": "bistro",
        "food": "Welsh",
        "priceRange": "upscale",
        "near": "Rowan Court",
    }
    assert show_mr(parse_mr(MR)) == MR
    assert parse_mr("customer rating[two stars]") == {"customer rating": "two stars"}


def test_what_a_text_says_is_found_whatever_the_words():
    text = "Not far from Rowan Court, Tin Otter is a high-end bistro. It has a Welsh menu."
    assert facts_in(text) == {slot: {value} for slot, value in parse_mr(MR).items()}
    assert facts_in("It is inexpensive and badly reviewed.") == {
        "priceRange": {"budget"},  # and not "expensive"
        "customer rating": {"poor"},
    }
    assert facts_in("There was nobody in the house.") == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Tin Otter is a high-end Welsh bistro near Rowan Court.", []),
        ("Tin Otter is a high-end Welsh bistro.", ["near"]),
        ("Tin Rabbit is a high-end Welsh bistro near Rowan Court.", ["name"]),
        ("The Tin Otter is a high-end Welsh bistro near Rowan Court.", ["name"]),
        ("Tin Otters is a high-end Welsh bistro near Rowan Court.", ["name"]),
        ("Tin Otter is a Welsh bistro near Rowan Court. Copper Kettle is on the dear side.", ["name"]),
        ("Tin Otter is a budget high-end Korean bistro near Rowan Court.", ["food", "priceRange"]),
        ("Tin Otter is a high-end Welsh bistro near Rowan Court. It welcomes children.", ["familyFriendly"]),
        ("", ["name", "eatType", "food", "priceRange", "near"]),
    ],
)
def test_slots_that_are_missing_changed_or_added_are_wrong(text, wrong):
    assert wrong_slots(MR, text) == wrong
