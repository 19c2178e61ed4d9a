"""Texts that describe a made-up restaurant."""

from random import Random

from hut_jax.data.e2e.restaurants.words import ADJECTIVES, AREAS


def describe(random: Random, meaning: dict[str, str]) -> str:
    """A text that expresses a meaning representation (slot -> value), all of it and nothing else."""
    noun = meaning.get("eatType", "place")
    before: list[str] = []
    after: list[str] = []
    clauses: list[str] = []
    for slot in random.sample(list(ADJECTIVES), len(ADJECTIVES)):
        if slot in meaning:
            adjectives, verbs = ADJECTIVES[slot][meaning[slot]]
            if adjectives and len(before) < 2 and random.random() < 0.5:
                before.append(random.choice(adjectives))
            else:
                clauses.append(random.choice(verbs))
    if "food" in meaning:
        food = meaning["food"]
        if random.random() < 0.5:
            after.append(f"serving {food} food")
        else:
            clauses.append(f"serves {food} food")
    place = _place(meaning)
    front = bool(place) and random.random() < 0.3
    if place and not front:
        if random.random() < 0.75:
            after.append(place)
        else:
            clauses.append(f"is {place}")
    phrase = _with_article(" ".join([*before, noun]))
    return _sentences(random, meaning["name"], phrase, after, clauses, place if front else "")


def _place(meaning: dict[str, str]) -> str:
    parts = []
    if "area" in meaning:
        parts.append(f"{AREAS[meaning['area']]} {meaning['area']}")
    if "near" in meaning:
        parts.append(f"near {meaning['near']}")
    return " ".join(parts)


def _sentences(random: Random, name: str, phrase: str, after: list[str], clauses: list[str], front: str) -> str:
    rest = " ".join(["", *after])
    if front:
        first = f"{front[0].upper()}{front[1:]}, {name} is {phrase}{rest}"
    else:
        first = random.choice((f"{name} is {phrase}{rest}", f"There is {phrase} called {name}{rest}"))
    random.shuffle(clauses)
    text = [first]
    while clauses:
        count = min(len(clauses), random.choice((1, 2, 2)))
        said, clauses = clauses[:count], clauses[count:]
        text.append(f"{random.choice(('It', 'It', name))} {' and '.join(said)}")
    return ". ".join(text) + "."


def _with_article(phrase: str) -> str:
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase
