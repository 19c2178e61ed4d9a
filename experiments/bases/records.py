"""Made-up records with what can be said of them, among pages of real text.

The records are of ships, rivers, paintings and other things, in ten notations; their values are random words of the
text. After each record, the document says it again: in sentences, in another notation, or in answers to questions. A
value cannot be guessed, only copied.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from hut_jax.core.errors import UserError
from hut_jax.data.text.files import read_pieces

KINDS = {
    "ship": ("captain", "home port", "cargo", "length", "built in", "flag", "crew", "engine", "owner"),
    "river": ("source", "mouth", "length", "colour", "bridge", "valley", "depth", "fish", "season"),
    "painting": ("painter", "subject", "year", "frame", "hangs in", "colour", "size", "owner", "style"),
    "horse": ("rider", "colour", "age", "stable", "temper", "breed", "height", "prize", "groom"),
    "song": ("singer", "key", "year", "mood", "instrument", "length", "first line", "theme", "label"),
    "mountain": ("height", "range", "rock", "climbed by", "hut", "weather", "lake", "side", "path"),
    "clock": ("maker", "tower", "hands", "year", "chime", "weight", "case", "error", "keeper"),
    "garden": ("gardener", "tree", "pond", "gate", "open in", "flower", "wall", "size", "bench"),
    "train": ("driver", "from", "to", "speed", "carriages", "colour", "platform", "fare", "line"),
    "castle": ("lord", "tower", "moat", "siege", "stone", "ghost", "year", "gate", "hall"),
    "star": ("seen by", "colour", "distance", "constellation", "size", "month", "age", "twin", "name day"),
    "book": ("author", "pages", "cover", "year", "hero", "ending", "language", "price", "printer"),
}
"""Kind of thing -> its slots. None is a place to eat."""

_PLURALS = ("days", "miles", "pounds", "feet", "yards", "years", "tons", "pieces")
_SOME_RECORDS = 0.75  # of the mixture's characters; the rest is real text
_WORD = re.compile(r"\b[a-z]{3,10}\b")

Record = dict[str, str]


def words_of(path: str | os.PathLike[str]) -> list[str]:
    """The text's lower-case words of 3 to 10 letters that occur at least five times, in alphabetical order.

    Raises:
        UserError: the text cannot be read, or has fewer than 100 such words.
    """
    counts: Counter[str] = Counter()
    for piece in read_pieces(path):
        counts.update(_WORD.findall(piece or ""))
    words = sorted(word for word, count in counts.items() if count >= 5)
    if len(words) < 100:
        raise UserError(f"{path}: the text has {len(words)} words that occur five times; at least 100 are needed")
    return words


def make_record(random: Random, words: Sequence[str]) -> Record:
    """A record: its name, its kind, and values of two to six slots. All values are random words."""
    kind = random.choice(list(KINDS))
    slots = random.sample(KINDS[kind], random.randint(2, 6))
    record = {"name": make_name(random, words), "kind": kind}
    return record | {slot: _value(random, words) for slot in slots}


def make_name(random: Random, words: Sequence[str]) -> str:
    """A name of one to four words."""
    first, second, third = (word.capitalize() for word in random.choices(words, k=3))
    ways = (first, f"{first} {second}", f"{first} {second}", f"The {first} {second}", f"{first} and {second}",
            f"{first} of {second}", f"{first} {second} {third}", f"The {first}")  # fmt: skip
    return random.choice(ways)


def _value(random: Random, words: Sequence[str]) -> str:
    way = random.randrange(6)
    if way == 0:
        return make_name(random, words)
    if way == 1:
        return f"{random.randint(2, 999)} {random.choice(_PLURALS)}"
    if way == 2:
        return str(random.randint(2, 2000))
    return " ".join(random.choices(words, k=random.randint(1, 2)))


def _camel(slot: str) -> str:
    first, *rest = slot.split()
    return first + "".join(word.capitalize() for word in rest)


NOTATIONS: tuple[Callable[[Mapping[str, str]], str], ...] = (
    lambda record: ", ".join(f"{_camel(slot)}[{value}]" for slot, value in record.items()),
    lambda record: ", ".join(f"{slot}[{value}]" for slot, value in record.items()),
    lambda record: "\n".join(f"{slot}: {value}" for slot, value in record.items()),
    lambda record: "; ".join(f"{slot} = {value}" for slot, value in record.items()),
    lambda record: " | ".join(f"{slot} : {value}" for slot, value in record.items()),
    lambda record: json.dumps(record, ensure_ascii=False),
    lambda record: " ".join(f"<{_camel(slot)}>{value}</{_camel(slot)}>" for slot, value in record.items()),
    lambda record: ", ".join(f"{slot}({value})" for slot, value in record.items()),
    lambda record: "\n".join(f"- {slot.capitalize()}: {value}" for slot, value in record.items()),
    lambda record: " / ".join(f"{value} ({slot})" for slot, value in record.items()),
)
"""Ways to write a record down."""


def say(random: Random, record: Record) -> str:
    """Sentences that say all of the record, each slot once, in a random order."""
    name, kind = record["name"], record["kind"]
    slots = [slot for slot in record if slot not in ("name", "kind")]
    random.shuffle(slots)
    article = _article(kind)
    said = [f"the {slot} is {record[slot]}" for slot in slots]
    with_ = [f"{slot} {record[slot]}" for slot in slots]
    opening = random.randrange(7)
    first = record[slots[0]]
    if opening == 5:
        text, rest = f"{name} is {_article(first)} {first} {kind}.", 1
    elif opening == 6:
        text, rest = f"There is {_article(first)} {first} {kind} near {record[slots[1]]}, {name}.", 2
    elif opening == 0:
        text, rest = f"{name} is {article} {kind}.", 0
    elif opening == 1:
        text, rest = f"{name} is {article} {kind} with {with_[0]}.", 1
    elif opening == 2:
        text, rest = (
            f"There is {article} {kind} called {name}. Its {with_[0].replace(slots[0], slots[0] + ' is', 1)}.",
            1,
        )
    elif opening == 3:
        text, rest = f"{name}, {article} {kind}, has {with_[0]} and {with_[1]}.", 2
    else:
        text, rest = f"The {kind} {name}: {said[0]}, and {said[1]}.", 2
    while rest < len(slots):
        count = min(len(slots) - rest, random.choice((1, 1, 2)))
        subject = random.choice((f"{name} has", f"The {kind} has", "It has", f"For {name}"))
        parts = said[rest : rest + count] if subject.startswith("For") else with_[rest : rest + count]
        text += f" {subject} {' and '.join(parts)}."
        rest += count
    return text


def _article(phrase: str) -> str:
    return "an" if phrase[0].lower() in "aeiou" else "a"


def _ask(random: Random, record: Record) -> str:
    lines = []
    for slot in random.sample(list(record), min(len(record), random.randint(2, 5))):
        question = random.choice((f"What is the {slot}?", f"{slot}?", f"Which {slot} has {record['name']}?"))
        lines.append(f"{question} {record[slot]}{random.choice(('', '.'))}")
    return "\n".join(lines)


def make_document(random: Random, words: Sequence[str]) -> str:
    """A record, and the same record again in other words."""
    record = make_record(random, words)
    first, second = random.sample(NOTATIONS, 2)
    way = random.random()
    if way < 0.6:
        again = say(random, record)
    elif way < 0.8:
        again = second({slot: record[slot] for slot in random.sample(list(record), len(record))})
    else:
        again = _ask(random, record)
    return f"{first(record)}\n{again}"


def mix(path: str | os.PathLike[str], random: Random, *, size: int, page: int = 600) -> Iterator[str]:
    """Documents of about `size` characters in all: records, and pages of the text from places spread over it.

    Args:
        path: a UTF-8 text, plain or `.xz`.
        random: decides everything.
        size: characters in all.
        page: the characters of a page.

    Raises:
        UserError: the text cannot be read or is too short.
    """
    words = words_of(path)
    pieces = [piece for piece in read_pieces(path, size=page) if piece is not None]
    random.shuffle(pieces)
    pages = iter(pieces)
    total = records = 0
    while total < size:
        is_record = records <= _SOME_RECORDS * total
        if is_record:
            document = make_document(random, words)
        elif (document := next(pages, "")) == "":
            raise UserError(f"{path}: the text is too short for {size} characters")
        document = document.strip()
        if not document:
            continue
        records += len(document) if is_record else 0
        total += len(document)
        yield document
