"""The files of the made-up restaurants."""

import csv
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from hut_jax.core.errors import UserError
from hut_jax.core.files import replacing
from hut_jax.data.e2e.csv_files import FILES, Record
from hut_jax.data.e2e.restaurants.describe import describe
from hut_jax.data.e2e.restaurants.facts import show_mr
from hut_jax.data.e2e.restaurants.words import HELD_OUT, SLOTS, WORDS, Words, draw_value

COUNTS = {"train": 4000, "validation": 80, "test": 100}
REFERENCES = {"train": 1, "validation": 4, "test": 4}


def write_restaurants(
    folder: str | os.PathLike[str],
    *,
    seed: int,
    train: int = COUNTS["train"],
    validation: int = COUNTS["validation"],
    test: int = COUNTS["test"],
) -> None:
    """Write `trainset.csv`, `devset.csv` and `testset_w_refs.csv`, which `load_e2e` reads.

    The counts are numbers of meaning representations. Each has one text in the training split, and four different
    texts in the other splits. No two splits share a name, and the names of the training split are made of other words
    than those of the other splits. The same arguments give the same files.

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
    taken: set[str] = set()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for split, count in counts.items():
            meanings = list(itertools.islice(_meanings(random, WORDS[split], taken), count))
            taken |= {meaning["name"] for meaning in meanings}
            records = [
                Record(show_mr(meaning), text)
                for meaning in meanings
                for text in _texts(random, meaning, REFERENCES[split])
            ]
            _write(Path(folder) / FILES[split], records)
    except OSError as error:
        raise UserError(f"cannot write restaurants to {folder}: {error.strerror}") from error


def _meanings(random: Random, words: Words, taken: set[str]) -> Iterator[dict[str, str]]:
    """Meanings of two or three slots beside the name, no two alike. Held-out names differ. None is in `taken`."""
    seen = set()
    while True:
        chosen = random.sample(SLOTS[1:], random.randint(2, 3))
        meaning = {slot: draw_value(random, slot, words) for slot in SLOTS if slot in ("name", *chosen)}
        key = meaning["name"] if words is HELD_OUT else tuple(meaning.values())
        if key not in seen and meaning["name"] not in taken:
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
