"""English words as coco-caption has them, without Java: Stanford's PTBTokenizer (CoreNLP 3.4.1) for ordinary sentences.

The rules were inferred from the original's outputs; `docs/metrics.md` says on which texts the two agree. If Java is
installed, `java.py` runs the original.

As in the original, the rule with the longest match wins. The lookahead counts as part of the match. Of equally long
matches the first wins. All texts are read together as one text, each on its own line. The reason is a line that ends
with an abbreviation: its full stop depends on the start of the next line.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# The tokens that coco-caption drops. Its list has the brackets in upper case. The tokens are in lower case, so brackets
# are kept.
PUNCTUATION = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."])


def drop_punctuation(tokens: Iterable[str]) -> str:
    """The tokens without punctuation, with one space between."""
    return " ".join(token for token in tokens if token not in PUNCTUATION)


def tokenize(texts: Sequence[str]) -> list[str]:
    """Each text's words in lower case with one space between, without punctuation. Texts have no line breaks."""
    return [drop_punctuation(tokens) for tokens in split("\n".join(texts))]


def split(text: str) -> list[list[str]]:
    """The tokens of each line in lower case, with punctuation."""
    text += "\n\n"  # a rule looks two characters ahead at most
    end = len(text) - 1
    lines: list[list[str]] = [[]]
    start = 0
    while start < end:
        if text[start] == "\n":
            lines.append([])
            start += 1
        elif text[start] in _BLANKS:
            start += 1
        elif (plain := _PLAIN.match(text, start)) and plain[0].lower() not in _SPLIT:
            lines[-1].append(plain[0].lower())
            start = plain.end()
        else:
            token, start = _next(text, start)
            if token:
                lines[-1].append(token)
    return lines[:-1]


class _Rule(NamedTuple):
    pattern: re.Pattern[str]  # its group is the token; the rest is lookahead
    writes: str | None = None  # the spelling to write instead of the token's own
    leaves: int = 0  # the number of characters at the group's end with which the next token begins
    repeats: bool = False  # whether this token ends with those characters too


def _next(text: str, start: int) -> tuple[str, int]:
    """The token that begins at `start`, and where the next may begin. An unknown character gives an empty token."""
    best: tuple[int, _Rule, re.Match[str]] | None = None
    for rule in _RULES:
        found = rule.pattern.match(text, start)
        if found and (best is None or found.end() > best[0]):
            best = found.end(), rule, found
    if best is None:
        character = text[start]
        known = character <= "\uffff" and not unicodedata.category(character).startswith("C")
        return _WRITTEN.get(character, character) if known else "", start + 1
    _, rule, found = best
    end = found.end(1) - rule.leaves
    token = text[start : found.end(1) if rule.repeats else end].lower().replace("&amp;", "&")
    if rule.writes:
        return rule.writes, end
    return _WRITTEN.get(token, _ENTITY.sub(r"\1'", token.translate(_ALIKE))), end


_BLANKS = " \t\xa0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000"
_PLAIN = re.compile(r"[A-Za-z]+(?=[ \n])")
_SPLIT = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])

_WRITTEN = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"£": "#", "€": "$", "¤": "$", "¢": "cents", "&lt;": "<", "&gt;": ">"},
    **{"“": "``", "”": "''", "‘": "`", "’": "'", "«": "``", "»": "''", "‹": "`", "›": "'", "&quot;": "''", '"': "''"},
    **dict.fromkeys(["–", "—", "―", "&mdash;", "&ndash;", "---", "----"], "--"),
    **{"…": "...", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
}

_ALIKE = str.maketrans({"’": "'", " ": "\xa0", "\xad": None})
_ENTITY = re.compile("^(n?)&apos;")  # within a word, as in o&apos;clock, it stays as it is
_NO_LETTER = "\xb2\xb3\xb9\xbc-\xbe\u2070-\u2089\u2150-\u218b"  # raised and lowered digits, fractions, Roman numerals
_MARK = "[\u0300-\u036f\xad]"  # separate accents and the soft hyphen belong to words
_LETTER = rf"(?:[^\W\d_{_NO_LETTER}]|{_MARK})"
_ALNUM = rf"(?:[^\W_{_NO_LETTER}]|{_MARK})"
_UNMARKED = rf"[^\W_{_NO_LETTER}]"
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_APOSTROPHE = "(?:['’]|&apos;)"
_HYPHEN = "[-\u2010\u2011]"
_CLITIC = rf"{_APOSTROPHE}(?:[msd]|re|ve|ll)"
_NUMBER = "(?:[0-9]+(?:[.:,][0-9]+)*|(?:[.,][0-9]+)+)"
_PART = rf"(?:[dol]{_APOSTROPHE}{_UNMARKED})?(?:{_UNMARKED}+|{_NUMBER})"
_ACRONYM = r"[a-z](?:\.[a-z])+"


def _any(words: str) -> str:
    return "|".join(map(re.escape, words.split()))


# Abbreviations after which a capital letter begins a sentence.
_ENDING = _any(
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec ed.d esq est etc ext "
    "feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla "
    "penn ph.d plc pte pty rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"
)
# Abbreviations of the same kind, but only with their capital letter. In lower case they are ordinary words.
_ENDING_CAPITAL = _any("Ark Az Del Ill La Mass Miss Ore Pa Tex Wash")
# Abbreviations after which a capital letter does not begin a sentence.
_INSIDE = _any(
    "adj adm adv assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen gov "
    "govs hon insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof profs pvt "
    "rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm"
)
# Abbreviations if a number follows.
_BEFORE_NUMBERS = _any("art ca fig figs no nos op pp prop")
# Words that begin a sentence after an acronym.
_STARTERS = _any(
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms. "
    "Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet "
    "You"
)


def _rule(
    pattern: str, writes: str | None = None, leaves: int = 0, repeats: bool = False, any_case: bool = True
) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE if any_case else 0), writes, leaves, repeats)


_RULES = (
    # Two words written as one, which are split: cannot into can and not, gonna into gon and na.
    _rule("(cannot|'twas)", leaves=3),
    _rule("('tis|gonna|gotta|lemme|gimme|wanna)", leaves=2),
    # Tags and entities of HTML.
    _rule("(</?[a-z][a-z0-9_:.-]*/?>)"),
    _rule("(&(?:amp|apos|lt|gt|quot|mdash|ndash);)"),
    # A word before 's, 'll and the like; a word before n't; any other word.
    _rule(rf"({_WORD}){_CLITIC}"),
    _rule(rf"([a-z]*[a-mo-z])n{_APOSTROPHE}t"),
    _rule(rf"({_WORD})"),
    # Words with an apostrophe.
    _rule(rf"({_APOSTROPHE}n{_APOSTROPHE}?|(?:[ldj]|ol|dunkin|somethin){_APOSTROPHE})"),
    _rule(rf"({_APOSTROPHE}(?:em|till?|cause|[1-9]0s)|(?:c'mon|e'er|c'est|li'l|s'mores|cap'n))"),
    _rule(rf"([A-XZ]{_APOSTROPHE}{_LETTER}{{2,}})", any_case=False),  # O'Brien
    _rule(rf"({_LETTER}+[aeiouy]{_APOSTROPHE}[aeioul]{_LETTER}*)"),  # ma'am
    _rule(rf"(y{_APOSTROPHE}){_LETTER}"),
    # Addresses, names on Twitter and hashtags.
    _rule(r"((?:https?|ftp)://[^\s<>()\"]*[\w/=])"),
    _rule(r"([a-z0-9][\w.+-]*@[\w-]+(?:\.[\w-]+)*)"),
    _rule("([@#][a-z_][a-z0-9_]*)"),
    # The endings 's, 'll and the like, and n't.
    _rule(rf"({_CLITIC})[^a-z]"),
    _rule(rf"(n{_APOSTROPHE}t)[^a-z]"),
    # Dates, numbers, fractions, dollars, and words joined by slashes.
    _rule("([0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4})"),
    _rule(rf"([-+]?{_NUMBER})"),
    _rule("((?:[0-9]{1,4}[- \xa0])?[0-9]{1,4}/[0-9]{1,4})"),
    _rule(r"([A-Z]*\$)", any_case=False),
    _rule("([a-z0-9]+(?:-[a-z0-9]+)*(?:/[a-z0-9]+(?:-[a-z0-9]+)*){1,2})"),
    # Abbreviations. If one ends a sentence, its full stop is also the next token. A single letter
    # loses its full stop if the next word can begin a sentence.
    _rule(rf"([A-Za-z]\.)\s+(?:{_STARTERS})\s", leaves=1, any_case=False),
    _rule(rf"((?i:{_ACRONYM})\.)\s+(?:{_STARTERS})\s", leaves=1, repeats=True, any_case=False),
    _rule(rf"((?:{_BEFORE_NUMBERS})\.)\s?[0-9]"),
    _rule(rf"((?:(?i:{_ENDING})|{_ENDING_CAPITAL})\.)\s[\sA-Z]", leaves=1, repeats=True, any_case=False),
    _rule(rf"((?:{_ENDING}|{_INSIDE}|{_ACRONYM}|[a-z])\.)"),
    _rule(rf"((?:{_ENDING_CAPITAL})\.)", any_case=False),
    _rule(rf"({_WORD}\.)[,;:]"),
    # Words with hyphens, and the like.
    _rule(rf"({_PART}(?:{_HYPHEN}{_PART})*)"),
    _rule(r"([A-Z]+(?:(?:&amp;|[+&])[A-Z]+)+)", any_case=False),
    _rule(rf"({_UNMARKED}(?:{_UNMARKED}|[.,])*(?:[-_](?:{_UNMARKED}+|{_ACRONYM}\.))+)"),
    # Opening quotation marks, and other punctuation.
    _rule(r'("|&quot;)[a-z0-9$]', writes="``"),
    _rule("(''|``)"),
    _rule(r"(')[a-z][^ \t\n\xa0]", writes="`"),
    _rule(r"(\.\.\.+)", writes="..."),
    _rule(r"(-+|\*+|@+|#+|_+|[?!]+)"),
)
