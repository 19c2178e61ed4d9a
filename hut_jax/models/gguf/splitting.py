"""The ways in which byte-level tokenizers split a text before they merge bytes, by llama.cpp's names for them."""

from typing import NamedTuple

_LETTERS_OF_CASE = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_CAPITALS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_FIRST = r"[^\r\n\p{L}\p{N}]?"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _cl100k(digits: str) -> str:
    """The pattern of OpenAI's cl100k, with so many digits to a token."""
    return rf"{_CONTRACTIONS}|{_FIRST}\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _by_case(contractions: str, digits: str) -> str:
    """The pattern of OpenAI's o200k, which splits before a capital letter."""
    words = f"{_FIRST}{_LETTERS_OF_CASE}{contractions}|{_FIRST}{_CAPITALS}{contractions}"
    return rf"{words}|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


class Splitting(NamedTuple):
    """How a text is split, and what else hangs on it.

    Attributes:
        pattern: of the pieces; None is GPT-2's.
        digits: whether each digit is a piece, before the pattern is matched.
        whole_words: whether a piece that is a token is that token, whatever the merges say.
        composed: whether the text is brought into Unicode's form NFC first.
        adds_bos: whether a text begins with the token bos, if the file does not say.
    """

    pattern: str | None = None
    digits: bool = False
    whole_words: bool = False
    composed: bool = False
    adds_bos: bool = False


_GPT2 = Splitting()
_DIGITS = Splitting(digits=True)
_LLAMA3 = Splitting(_cl100k("{1,3}"), whole_words=True, adds_bos=True)
_CL100K = Splitting(_cl100k("{1,3}"))
_QWEN = Splitting(_cl100k(""))
_O200K = Splitting(_by_case(f"{_CONTRACTIONS}?", "{1,3}"))
_TEKKEN = Splitting(_by_case("", ""), whole_words=True, adds_bos=True)

SPLITTING: dict[str, Splitting] = {
    **dict.fromkeys(("gpt-2", "phi-2"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("smaug-bpe", "dbrx"), _CL100K),
    "qwen2": _QWEN._replace(composed=True),
    "deepseek-r1-qwen": _QWEN,
    **dict.fromkeys(("gpt-4o", "llama4"), _O200K),
    "tekken": _TEKKEN,
}
"""Every way that is known."""
