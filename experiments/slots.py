"""How many slots of E2E's meaning representations texts have right.

    python -m experiments.slots E2E runs/e2e_smollm2/test_outputs.txt

`E2E` is the folder of the official files, and OUTPUTS has a text on each line, for each meaning representation of the
test set in turn, as `hut_jax.evaluate` writes them. The first row of the table has the test set's human references.

A slot is right if the text says its value and no other, and a slot that the meaning representation does not have is
right if the text does not mention it. Phrases are recognised by patterns. Of the prices and the ratings, "less than
£20" and "cheap", "5 out of 5" and "high" and their like count as the same, since people write one for the other, and
"restaurant" may be said of any place.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import read_text
from hut_jax.data.e2e.csv_files import find_files, read_records
from hut_jax.data.e2e.dataset import references
from hut_jax.data.e2e.restaurants.facts import parse_mr

_SAME = {
    "priceRange": {"cheap": "less than £20", "moderate": "£20-25", "high": "more than £30"},
    "customer rating": {"low": "1 out of 5", "average": "3 out of 5", "high": "5 out of 5"},
}
_NOT = r"(?:\bno[nt]?\b|n't\b|\bun)"
_FAMILY = r"(?:famil|kid|child)"
_RATED = r"(?:customer |consumer |user )?(?:satisfaction )?(?:rating|rated|rate|review|customers?)"

PATTERNS: Mapping[str, Mapping[str, str]] = {
    "eatType": {"pub": r"\bpubs?\b", "coffee shop": r"\bcoffee[- ]?(?:shop|house|place)|\bcaf[eé]\b"},
    "food": {
        "Japanese": r"\bjapanese|\bsushi",
        "Italian": r"\bitalian|\bpastas?\b",
        "Fast food": r"\bfast[- ]?foods?",
        "French": r"\bfrench",
        "Indian": r"\bindian|\bcurry\b",
        "English": r"\benglish\b|\bbritish\b",
        "Chinese": r"\bchinese",
    },
    "priceRange": {
        "less than £20": r"\bcheap|inexpensive|\blow(?:er)?[- ](?:pric|cost)|(?:less than|under|below) (?:£|\$)? ?20"
        r"|pric\w*(?: range)?(?: is| are|:)? (?:quite |very )?(?:low|cheap)\b",
        "£20-25": r"\bmoderate|\bmid[- ]?(?:range|pric)|\baverage[- ](?:pric|cost)|reasonabl[ey][- ]pric"
        r"|20 ?(?:-|–|to|and) ?(?:£|\$)? ?25",
        "more than £30": r"(?<!in)expensive|\bhigh(?:ly|er)?[- ](?:pric|cost|end)|\bpric[e]?y|(?:more than|over|above) "
        r"(?:£|\$)? ?30|pric\w*(?: range)?(?: is| are|:)? (?:quite |very )?high\b",
    },
    "customer rating": {
        "1 out of 5": rf"\b(?:1|one)(?: out of |/| of )(?:5|five)\b|\b(?:1|one)[- ]stars?\b|\blow(?:ly)?[- ]{_RATED}"
        rf"|\bpoor(?:ly)?[- ]{_RATED}|(?:rating|rated|reviews?)(?: is| are| of| as)? (?:a )?(?:low|poor)(?:ly)?\b",
        "3 out of 5": r"\b(?:3|three)(?: out of |/| of )(?:5|five)\b|\b(?:3|three)[- ]stars?\b"
        rf"|\baverage[- ]{_RATED}|(?:rating|rated|reviews?)(?: is| are| of| as)? (?:an? )?average",
        "5 out of 5": r"\b(?:5|five)(?: out of |/| of )(?:5|five)\b|\b(?:5|five)[- ]stars?\b|\bhigh(?:ly)?[- ]"
        rf"{_RATED}|(?:rating|rated|reviews?)(?: is| are| of| as)? (?:a )?(?:very )?high(?:ly)?\b|excellent {_RATED}",
    },
    "area": {"riverside": r"\briver", "city centre": r"\bcent(?:re|er)\b|\bcity\b|\bdowntown\b"},
    "familyFriendly": {
        "no": rf"{_NOT}[^.]{{0,40}}{_FAMILY}|\badults?[- ]only|\b(?:only|for) adults",
        "yes": _FAMILY,
    },
}
"""Slot -> value -> the phrases that say it, in lower case. Names and landmarks are those of the data."""


class SlotScores(NamedTuple):
    """Shares of 0 to 1.

    Attributes:
        slots: of the slots that the meaning representations have or the texts mention, those that are right.
        texts: of the texts, those with all slots right.
        by_slot: the share of each slot alone.
    """

    slots: float
    texts: float
    by_slot: dict[str, float]


class Facts:
    """Reads what texts say of restaurants.

    Args:
        mrs: meaning representations with all the names and landmarks that texts may have.
    """

    def __init__(self, mrs: Sequence[str]):
        values = [parse_mr(mr) for mr in mrs]
        self._places = {slot: sorted({each[slot] for each in values if slot in each}) for slot in ("name", "near")}

    def wrong(self, mr: str, text: str) -> dict[str, bool]:
        """Whether the text has a slot wrong, for each slot that it mentions or the meaning representation has."""
        wanted, text, found = parse_mr(mr), _plain(text), {}
        for slot in self._places.keys() & wanted.keys():
            place = _plain(wanted[slot]).removeprefix("the ")
            found[slot] = place not in text
            text = text.replace(place, "*")  # Raja Indian Cuisine serves no Indian food
        for slot, places in self._places.items():
            for place in map(_plain, places):
                if re.search(rf"\b{re.escape(place)}\b", text):
                    found[slot] = True
                    text = text.replace(place, "*")
        for slot, ways in PATTERNS.items():
            said = {value for value, pattern in ways.items() if re.search(pattern, text)}
            if "no" in said:
                said = {"no"}  # the phrase for "yes" is part of it
            value = wanted.get(slot, "")
            value = _SAME.get(slot, {}).get(value, value)
            if value == "restaurant":
                found[slot] = bool(said) or value not in text
            elif said or value:
                found[slot] = said != {value}
        return found

    def score(self, mrs: Sequence[str], texts: Sequence[str]) -> SlotScores:
        """The shares of slots that the texts have right.

        Raises:
            UserError: there is no text, or not one for each meaning representation.
        """
        if not mrs or len(mrs) != len(texts):
            raise UserError(f"{len(mrs)} meaning representations and {len(texts)} texts: one text for each is wanted")
        wrong = [self.wrong(mr, text) for mr, text in zip(mrs, texts, strict=True)]
        by_slot: dict[str, list[bool]] = {slot: [] for slot in ("name", *PATTERNS, "near")}
        for one in wrong:
            for slot, is_wrong in one.items():
                by_slot[slot].append(not is_wrong)
        right = [each for rights in by_slot.values() for each in rights]
        shares = {slot: sum(rights) / len(rights) for slot, rights in by_slot.items() if rights}
        return SlotScores(sum(right) / len(right), sum(not any(one.values()) for one in wrong) / len(wrong), shares)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("é", "e").split())


def main(argv: Sequence[str]) -> None:
    """The command; prints a table."""
    parser = cli.Parser("experiments.slots", __doc__ or "")
    parser.add_argument("data", metavar="E2E", help="the folder of the official files")
    parser.add_argument("outputs", nargs="+", type=Path, metavar="OUTPUTS", help="files of texts, one on each line")
    args = parser.parse_args(argv)
    splits = {split: references(read_records(path)) for split, path in find_files(args.data).items()}
    facts, test = Facts([mr for split in splits.values() for mr in split]), splits["test"]
    pairs = [(mr, text) for mr, texts in test.items() for text in texts]
    rows = {"human references": facts.score(*zip(*pairs, strict=True))}
    for path in args.outputs:
        rows[str(path)] = facts.score(list(test), read_text(path).removesuffix("\n").split("\n"))
    slots = list(rows["human references"].by_slot)
    print("| | slots right | texts all right | " + " | ".join(slots) + " |\n" + "|---" * (len(slots) + 3) + "|")
    for name, row in rows.items():
        shares = (row.slots, row.texts, *(row.by_slot.get(slot, 1.0) for slot in slots))
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |")


if __name__ == "__main__":
    cli.run(main)
