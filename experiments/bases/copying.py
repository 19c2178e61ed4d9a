r"""Three texts from which a small language model learns to copy, each harder than the one before.

    python -m experiments.bases.copying --text=books.txt.xz --tokenizer=assets/tiny --output=runs/copying

`words.txt` repeats lists of words that are one token each. `phrases.txt` repeats phrases of rarer words, too, in
changing orders, and has pages of the real text. `records.txt` has made-up records, see `experiments.bases.records`,
pages, and some of the phrases. Nothing in them is about restaurants. A model that starts with the records takes far
longer to learn to copy: it finds it easier to guess.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

from experiments.bases.records import mix, words_of
from hut_jax.core import cli
from hut_jax.core.errors import UserError
from hut_jax.core.files import read_json, replacing
from hut_jax.data.text.files import SEPARATOR

FILES = ("words.txt", "phrases.txt", "records.txt")
SIZES = (6_000_000, 9_000_000, 36_000_000)
"""Characters of each text, without the phrases that the last one borrows."""

_NOTATION = "[]{}=|<"
_PAGE = 350  # characters; a shorter document may be a record
_BETWEEN = (" ", "\n", ", ", "; ", " / ", " | ")


def short_words(tokenizer: str | os.PathLike[str]) -> list[str]:
    """The words of three letters or more that are one token of the tokenizer in this folder.

    Raises:
        UserError: the folder has no vocab.json of a byte-level BPE.
    """
    vocab = read_json(Path(tokenizer) / "vocab.json")
    found = [token[1:] for token in vocab if token.startswith("Ġ") and token[1:].isalpha() and len(token) > 3]
    if len(found) < 100:
        raise UserError(f"{tokenizer}: {len(found)} words are one token of this tokenizer; at least 100 are needed")
    return found


def repeat_words(random: Random, short: Sequence[str]) -> Iterator[str]:
    """Without end: three to twelve words, four times."""
    while True:
        yield _repeated(random, short)


def repeat_phrases(random: Random, short: Sequence[str], words: Sequence[str], pages: Sequence[str]) -> Iterator[str]:
    """Without end: repeated words, phrases repeated in changing orders, and pages.

    Args:
        random: decides everything.
        short: words of one token.
        words: any words.
        pages: real text.
    """
    while True:
        way = random.random()
        if way < 0.4:
            yield _repeated(random, short)
        elif way < 0.85:
            yield _shuffled(random, words if random.random() < 0.6 else short)
        else:
            yield random.choice(pages)


def with_some(random: Random, documents: Iterable[str], others: Iterable[str], share: float) -> Iterator[str]:
    """The documents, and after each one, with a chance of `share`, one of the others."""
    left = iter(others)
    for document in documents:
        yield document
        if random.random() < share:
            yield from itertools.islice(left, 1)


def _repeated(random: Random, short: Sequence[str]) -> str:
    line = " ".join(random.sample(short, random.randint(3, 12)))
    return " " + " ".join([line] * 4)


def _shuffled(random: Random, words: Sequence[str]) -> str:
    phrases = [
        " ".join(
            word.capitalize() if random.random() < 0.4 else word
            for word in random.choices(words, k=random.randint(1, 3))
        )
        for _ in range(random.randint(2, 5))
    ]
    between = random.choice(_BETWEEN)
    lines = []
    for _ in range(random.randint(2, 4)):
        line = list(phrases)
        if random.random() < 0.3:
            random.shuffle(line)
        lines.append(between.join(line))
    return "\n".join(lines)


def take(documents: Iterable[str], size: int) -> Iterator[str]:
    """Documents until they have `size` characters."""
    total = 0
    for document in documents:
        total += len(document)
        yield document
        if total >= size:
            return


def write_texts(
    text: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    sizes: Sequence[int] = SIZES,
) -> None:
    """Write the three texts into the folder. The same arguments give the same files.

    Args:
        text: a UTF-8 text, plain or `.xz`.
        tokenizer: a folder with the vocab.json of a byte-level BPE.
        folder: for the texts.
        sizes: characters of each text.

    Raises:
        UserError: text or tokenizer cannot be read or are too small, or the folder cannot be written.
    """
    short, words = short_words(tokenizer), words_of(text)
    records = list(mix(text, Random(0), size=sizes[2]))
    pages = [one for one in records if len(one) > _PAGE and not any(sign in one for sign in _NOTATION)]
    phrases = list(take(repeat_phrases(Random(3), short, words, pages), sizes[1]))
    last = Random(4)
    shuffled = last.sample(phrases, len(phrases))
    texts = (
        take(repeat_words(Random(1), short), sizes[0]),
        phrases,
        with_some(last, records, shuffled, share=0.6),
    )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, documents in zip(FILES, texts, strict=True):
            with replacing(Path(folder) / name) as partial, open(partial, "w", encoding="utf-8") as file:
                file.writelines(f"{document}\n{SEPARATOR}\n" for document in documents)
    except OSError as error:
        raise UserError(f"cannot write the texts to {folder}: {error.strerror}") from error


def main(argv: Sequence[str]) -> None:
    """The command: write the three texts."""
    parser = cli.Parser("experiments.bases.copying", __doc__ or "")
    parser.add_argument("--text", required=True, metavar="FILE", help="a UTF-8 text, plain or .xz")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="a folder with the base's vocab.json")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder for the three texts")
    args = parser.parse_args(argv)
    write_texts(args.text, args.tokenizer, args.output)
    print(f"{args.output}: {', '.join(FILES)}")


if __name__ == "__main__":
    cli.run(main)
