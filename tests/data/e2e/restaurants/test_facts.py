import pytest

from hut_jax.data.e2e.restaurants import facts_in, parse_mr, show_mr, wrong_slots

MR = "name[Tame Otter], eatType[bistro], food[Welsh], priceRange[upscale], near[Rowan Court]"


def test_a_meaning_representation_is_read_and_written():
    assert parse_mr(MR) == {
        "name": "Tame Otter",
        "eatType": "bistro",
        "food": "Welsh",
        "priceRange": "upscale",
        "near": "Rowan Court",
    }
    assert show_mr(parse_mr(MR)) == MR
    assert parse_mr("customer rating[two stars]") == {"customer rating": "two stars"}


def test_what_a_text_says_is_found_whatever_the_words():
    text = "Not far from Rowan Court, Tame Otter is a upscale bistro. It serves Welsh food."
    assert facts_in(text) == {slot: {value} for slot, value in parse_mr(MR).items()}
    assert facts_in("It is low-cost and poorly rated.") == {
        "priceRange": {"budget"},
        "customer rating": {"poor"},
    }
    assert facts_in("There was nobody in the house.") == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Tame Otter is a upscale Welsh bistro near Rowan Court.", []),
        ("Tame Otter is a upscale Welsh bistro.", ["near"]),
        ("Tame Rabbit is a upscale Welsh bistro near Rowan Court.", ["name"]),
        ("The Tame Otter is a upscale Welsh bistro near Rowan Court.", ["name"]),
        ("Tame Otters is a upscale Welsh bistro near Rowan Court.", ["name"]),
        ("Tame Otter is a Welsh bistro near Rowan Court. Copper Kettle has high prices.", ["name"]),
        ("Tame Otter is a low-cost upscale Korean bistro near Rowan Court.", ["food", "priceRange"]),
        ("Tame Otter is a upscale Welsh bistro near Rowan Court. It welcomes children.", ["familyFriendly"]),
        ("", ["name", "eatType", "food", "priceRange", "near"]),
    ],
)
def test_slots_that_are_missing_changed_or_added_are_wrong(text, wrong):
    assert wrong_slots(MR, text) == wrong
