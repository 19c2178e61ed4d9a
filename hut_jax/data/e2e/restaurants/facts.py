"""What a text says of a restaurant, and what it should have said."""

import re
from collections.abc import Iterable, Iterator, Mapping

from hut_jax.data.e2e.restaurants.words import ADJECTIVES, AREAS, FOODS, HELD_OUT, KINDS, SLOTS, TRAIN

_SLOT = re.compile(r"([\w ]+?)\[([^]]*)\]")


def parse_mr(mr: str) -> dict[str, str]:
    """The values of a meaning representation such as `name[Tin Otter], food[Welsh]`, by slot."""
    return {slot.strip(): value for slot, value in _SLOT.findall(mr)}


def show_mr(meaning: Mapping[str, str]) -> str:
    """The inverse of `parse_mr`."""
    return ", ".join(f"{slot}[{value}]" for slot, value in meaning.items())


def facts_in(text: str) -> dict[str, set[str]]:
    """What the text says: slot -> the values said. A slot that is not mentioned has no entry.

    A name or a landmark is any that could be made of the words of all splits; other slots have closed lists.
    """
    found: dict[str, set[str]] = {}
    for slot, pattern in _PATTERNS.items():
        if values := {_MEANT.get((slot, said), said) for said in pattern.findall(text)}:
            found[slot] = values
    return found


def wrong_slots(mr: str, text: str) -> list[str]:
    """The slots that the text has wrong, in the order of `SLOTS`.

    A slot is right if the text says its value and no other. A slot that the meaning representation does not have is
    right if the text does not mention it.
    """
    wanted = {slot: {value} for slot, value in parse_mr(mr).items()}
    said = facts_in(text)
    return [slot for slot in SLOTS if said.get(slot) != wanted.get(slot)]


def _ways() -> Iterator[tuple[str, str, str]]:
    """Slot, value, and a phrase that says it."""
    for slot, values in (("eatType", KINDS), ("food", FOODS), ("area", AREAS)):
        for value in values:
            yield slot, value, value
    for slot, ways in ADJECTIVES.items():
        for value, (adjectives, predicates) in ways.items():
            for phrase in (*adjectives, *predicates):
                yield slot, value, phrase


def _any_of(phrases: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))


def _whole(pattern: str) -> re.Pattern[str]:
    # A hyphen belongs to a word: "two-star" is not "star".
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])")


_MEANT = {(slot, phrase): value for slot, value, phrase in _ways()}
_FIRST, _SECOND = _any_of({*TRAIN.first, *HELD_OUT.first}), _any_of({*TRAIN.second, *HELD_OUT.second})
_LANDMARKS = (
    f"(?:{_any_of({*TRAIN.landmark_first, *HELD_OUT.landmark_first})}) "
    f"(?:{_any_of({*TRAIN.landmark_second, *HELD_OUT.landmark_second})})"
)
_PATTERNS = {
    "name": _whole(f"(?:The )?(?:{_FIRST}) (?:{_SECOND})|(?:{_SECOND}) and (?:{_SECOND})"),
    "near": _whole(_LANDMARKS),
} | {
    slot: _whole(_any_of(phrase for other, phrase in _MEANT if other == slot))
    for slot in SLOTS
    if slot not in ("name", "near")
}
