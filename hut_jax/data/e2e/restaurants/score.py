"""How many facts a set of texts has right."""

from collections.abc import Sequence
from typing import NamedTuple

from hut_jax.core.errors import UserError
from hut_jax.data.e2e.restaurants.facts import facts_in, parse_mr, wrong_slots


class FactScores(NamedTuple):
    """Shares of 0 to 1.

    Attributes:
        names: of the texts, those that name the right restaurant and no other.
        slots: of the slots that the meaning representations have or the texts mention, those that are right.
    """

    names: float
    slots: float


def score_facts(mrs: Sequence[str], texts: Sequence[str]) -> FactScores:
    """The facts that the texts have right.

    Args:
        mrs: meaning representations of made-up restaurants.
        texts: one for each of them.

    Raises:
        UserError: there is no text, or not one for each meaning representation.
    """
    if not mrs or len(mrs) != len(texts):
        raise UserError(f"{len(mrs)} meaning representations and {len(texts)} texts: one text for each is wanted")
    wrong = [wrong_slots(mr, text) for mr, text in zip(mrs, texts, strict=True)]
    slots = sum(len({*parse_mr(mr), *facts_in(text)}) for mr, text in zip(mrs, texts, strict=True))
    names = sum("name" not in slots_wrong for slots_wrong in wrong)
    return FactScores(names / len(texts), 1 - sum(map(len, wrong)) / slots)
