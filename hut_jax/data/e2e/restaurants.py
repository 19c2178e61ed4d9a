"""Made-up restaurants in the format of E2E, for training without the real data.

python -m hut_jax.data.e2e.restaurants --output DIR
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import replacing
from hut_jax.data.e2e.csv_files import FILES, Record

NAMES = (
    "Amber Kettle", "Badger and Thistle", "Casa Lumbre", "Dovetail", "Elderflower Rooms", "Fennel Yard",
    "Gilded Snail", "Half Lantern", "Ivory Ladle", "Juniper Loft", "Kestrel Table", "Larder Nine", "Mossgate",
    "Nutmeg Row", "Old Foundry", "Pepper Wharf", "Quince House", "Rook and Barley", "Saffron Attic", "Tin Compass",
    "Umber Grill", "Velvet Radish", "Wandering Spoon", "Yellow Heron",
)  # fmt: skip
LANDMARKS = (
    "Abbey Gardens", "Bellmaker Bridge", "Corn Hall", "Drummond Library", "Granary Lock", "Lamplight Theatre",
    "Orchard Station", "Swan Baths",
)  # fmt: skip
KINDS = ("bistro", "tavern", "tea room", "diner", "noodle bar")
FOODS = ("Basque", "Georgian", "Korean", "Lebanese", "Nepalese", "Peruvian", "Welsh")
AREAS = {
    "harbour": ("at the", "by the", "in the"),
    "old town": ("in the",),
    "market square": ("on the",),
    "hillside": ("on the",),
    "university quarter": ("in the",),
}
# A value -> adjectives before the noun, and predicates after "it".
_Ways = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

PRICES: _Ways = {
    "budget": (("inexpensive", "low-cost", "budget"), ("will not cost you much", "keeps its prices low")),
    "mid-range": (("mid-range", "reasonably priced"), ("has fair prices", "is neither dear nor cheap")),
    "upscale": (("upscale", "expensive", "high-end"), ("has high prices", "is on the dear side")),
    "under £15": ((), ("charges under £15", "has meals for under £15", "serves most dishes at under £15")),
    "over £40": ((), ("charges over £40", "has meals for over £40", "will set you back over £40")),
}
RATINGS: _Ways = {
    "poor": (("poorly rated", "badly reviewed"), ("has poor reviews", "gets poor marks from its guests")),
    "fair": (("decently rated",), ("has fair reviews", "gets fair marks from its guests")),
    "excellent": (("highly rated", "well reviewed"), ("has excellent reviews", "is excellent, its guests say")),
    "two stars": (("two-star",), ("has two stars", "is rated at two stars")),
    "four stars": (("four-star",), ("has four stars", "is rated at four stars")),
}
FAMILY: _Ways = {
    "yes": (
        ("family-friendly", "child-friendly"),
        ("welcomes children", "suits families", "is a good choice with kids"),
    ),
    "no": (("adults-only",), ("does not admit children", "is no place for families", "is for adults only")),
}
_ADJECTIVES = {"priceRange": PRICES, "customer rating": RATINGS, "familyFriendly": FAMILY}
_VALUES = {
    "name": NAMES,
    "eatType": KINDS,
    "food": FOODS,
    "priceRange": tuple(PRICES),
    "customer rating": tuple(RATINGS),
    "area": tuple(AREAS),
    "familyFriendly": tuple(FAMILY),
    "near": LANDMARKS,
}
_COUNTS = {"train": 1000, "validation": 100, "test": 100}
_REFERENCES = {"train": 3, "validation": 4, "test": 4}


def write_restaurants(
    folder: str | os.PathLike[str],
    *,
    seed: int,
    train: int = _COUNTS["train"],
    validation: int = _COUNTS["validation"],
    test: int = _COUNTS["test"],
) -> None:
    """Write `trainset.csv`, `devset.csv` and `testset_w_refs.csv`, which `load_e2e` reads.

    The counts are numbers of meaning representations. No two splits share a meaning representation. Each has three
    different texts in the training split, and four in the other splits. The same arguments give the same files.

    Raises:
        UserError: a count is below 1, the counts add up to more than 100,000, or the folder cannot be written.
    """
    counts = {"train": train, "validation": validation, "test": test}
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"{split} is {count}; each split has at least 1 meaning representation")
    if sum(counts.values()) > 100_000:
        raise UserError(f"{sum(counts.values())} meaning representations were requested; the most is 100000")
    random = Random(seed)
    meanings = _distinct_meanings(random)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for split, count in counts.items():
            records = []
            for _ in range(count):
                meaning = next(meanings)
                mr = ", ".join(f"{slot}[{value}]" for slot, value in meaning.items())
                records += [Record(mr, text) for text in _texts(random, meaning, _REFERENCES[split])]
            _write(Path(folder) / FILES[split], records)
    except OSError as error:
        raise UserError(f"cannot write restaurants to {folder}: {error.strerror}") from error


def describe(random: Random, meaning: dict[str, str]) -> str:
    """A text that expresses a meaning representation (slot -> value), all of it and nothing else."""
    noun = meaning.get("eatType", random.choice(("place", "spot", "venue")))
    before: list[str] = []
    after: list[str] = []
    clauses: list[str] = []
    for slot in random.sample(list(_ADJECTIVES), len(_ADJECTIVES)):
        if slot in meaning:
            adjectives, verbs = _ADJECTIVES[slot][meaning[slot]]
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


def _distinct_meanings(random: Random) -> Iterator[dict[str, str]]:
    seen = set()
    optional = [slot for slot in _VALUES if slot != "name"]
    while True:
        chosen = random.sample(optional, random.randint(2, len(optional)))
        meaning = {slot: random.choice(values) for slot, values in _VALUES.items() if slot in ("name", *chosen)}
        key = tuple(meaning.items())
        if key not in seen:
            seen.add(key)
            yield meaning


def _texts(random: Random, meaning: dict[str, str], count: int) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[describe(random, meaning)] = None
    return list(texts)


def _write(path: Path, records: list[Record]) -> None:
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Record._fields)
        writer.writerows(records)


def main(argv: Sequence[str]) -> None:
    """The command: write the three files."""
    parser = cli.Parser("hut_jax.data.e2e.restaurants", __doc__ or "")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for the three CSV files")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all random choices (default: 0)")
    for split, count in _COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help=f"meaning representations (default: {count})")
    args = parser.parse_args(argv)
    write_restaurants(args.output, seed=args.seed, train=args.train, validation=args.validation, test=args.test)
    print(f"{args.output}: {', '.join(FILES.values())}")


if __name__ == "__main__":
    cli.run(main)
