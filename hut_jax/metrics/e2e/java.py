"""The two Java programs of coco-caption, from the package pycocoevalcap, which is located but never imported."""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hut_jax.metrics.e2e.ptb import drop_punctuation

_TOKENIZER = "tokenizer/stanford-corenlp-3.4.1.jar"
_METEOR = "meteor/meteor-1.5.jar"
# In any locale texts are then UTF-8, and numbers have a decimal point.
_OPTIONS = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")


class Unavailable(Exception):
    """Java or one of its programs is missing or fails; the message says which."""


def is_there() -> bool:
    """Whether Java and both programs are there."""
    try:
        return bool(_jar(_TOKENIZER) and _jar(_METEOR))
    except Unavailable:
        return False


def tokenize(texts: Sequence[str]) -> list[str]:
    """Each text's words in lower case with one space between, without punctuation. Texts have no line breaks.

    Raises:
        Unavailable: the tokenizer cannot be run.
    """
    arguments = ["-cp", str(_jar(_TOKENIZER)), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = _run(arguments, texts)[: len(texts)]
    if len(lines) != len(texts):
        raise Unavailable(f"PTBTokenizer made {len(lines)} lines of {len(texts)}")
    return [drop_punctuation(line.rstrip().split(" ")) for line in lines]


def meteor_statistics(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
    """METEOR 1.5's alignment of each output with its best reference; `meteor.py` describes the numbers.

    Args:
        outputs: tokenized texts.
        references: at least one tokenized text for each output.

    Raises:
        Unavailable: METEOR cannot be run.
    """
    jar = _jar(_METEOR)
    # Bars separate texts. Two spaces become one, as in coco-caption.
    texts = [output.replace("|||", "").replace("  ", " ") for output in outputs]
    lines = [" ||| ".join(["SCORE", *refs, text]) for text, refs in zip(texts, references, strict=True)]
    arguments = ["-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    answers = _run(arguments, [*lines, ""], folder=jar.parent)[: len(lines)]  # the empty line ends the last one
    try:
        rows = [[float(number) for number in answer.split()] for answer in answers]
    except ValueError:
        raise Unavailable("METEOR gave something other than numbers") from None
    if len(rows) != len(lines):
        raise Unavailable(f"METEOR answered {len(rows)} of {len(lines)} outputs")
    for row in rows:
        if len(row) != 23:
            raise Unavailable(f"METEOR gave {len(row)} numbers for an output, not 23")
    return rows


def _jar(name: str) -> Path:
    if shutil.which("java") is None:
        raise Unavailable("no java on the PATH; a Java runtime of version 8 or later is needed")
    found = importlib.util.find_spec("pycocoevalcap")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise Unavailable("no package pycocoevalcap; pip install --no-deps pycocoevalcap")


def _run(arguments: Sequence[str], lines: Sequence[str], folder: Path | None = None) -> list[str]:
    text = "\n".join(lines)
    try:
        done = subprocess.run(
            ["java", *_OPTIONS, *arguments], input=text.encode(), capture_output=True, check=False, cwd=folder
        )
    except OSError as error:
        raise Unavailable(f"java cannot be started: {error.strerror}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"java ended with {done.returncode}: {last[0].strip()}")
    try:
        return done.stdout.decode().split("\n")
    except UnicodeDecodeError:
        raise Unavailable("java wrote something other than UTF-8") from None
