"""Texts that describe a made-up restaurant."""

from random import Random

from hut_jax.data.e2e.restaurants.words import ADJECTIVES, AREAS


def describe(random: Random, meaning: dict[str, str]) -> str:
    """A text that expresses a meaning representation (slot -> value), all of it and nothing else."""
    noun = meaning.get("eatType", random.choice(("place", "spot", "venue")))
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
        way = random.randrange(3)
        if way == 0:
            before.append(food)
        elif way == 1:
            after.append(random.choice((f"serving {food} food", f"with {food} cooking", f"offering {food} dishes")))
        else:
            clauses.append(random.choice((f"serves {food} food", f"cooks {food} dishes", f"has a {food} menu")))
    place = _place(random, meaning)
    front = bool(place) and random.random() < 0.3
    if place and not front:
        if random.random() < 0.75:
            after.append(place)
        else:
            clauses.append(f"{random.choice(('is', 'can be found', 'stands'))} {place}")
    phrase = _with_article(" ".join([*before, noun]))
    return _sentences(random, meaning["name"], phrase, after, clauses, place if front else "")


def _place(random: Random, meaning: dict[str, str]) -> str:
    parts = []
    if "area" in meaning:
        parts.append(f"{random.choice(AREAS[meaning['area']])} {meaning['area']}")
    if "near" in meaning:
        parts.append(random.choice(("near", "close to", "not far from", "next to")) + f" {meaning['near']}")
    random.shuffle(parts)
    return random.choice((" ", " and ")).join(parts)


def _sentences(random: Random, name: str, phrase: str, after: list[str], clauses: list[str], front: str) -> str:
    rest = " ".join(["", *after])
    opening = random.randrange(3)
    if front:
        lead = front[0].upper() + front[1:]
        first = (
            f"{lead}, {name} is {phrase}{rest}",
            f"{lead}, there is {phrase}{rest}, {name}",
            f"{lead} you will find {name}, {phrase}{rest}",
        )[opening]
    else:
        first = (f"{name} is {phrase}{rest}", f"There is {phrase} called {name}{rest}", f"{name}, {phrase}{rest}")[
            opening
        ]
        if opening == 2:  # a subject without its verb
            if not clauses:
                return f"Try {first}."
            first = f"{first}, {clauses.pop(0)}"
    random.shuffle(clauses)
    text = [first]
    while clauses:
        count = min(len(clauses), random.choice((1, 2, 2, 3)))
        said, clauses = clauses[:count], clauses[count:]
        joined = " and ".join([", ".join(said[:-1]), said[-1]] if count > 1 else said)
        subject = random.choice(("It", "It", f"{name}", "The place"))
        text.append(f"{subject} {joined}")
    return ". ".join(text) + "."


def _with_article(phrase: str) -> str:
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase
