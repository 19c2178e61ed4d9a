import itertools

import pytest


@pytest.fixture(scope="session")
def wordy_text(tmp_path_factory):
    """A text of 144 words, twenty times, in other orders."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = ["".join(letters) for letters in itertools.product("brst", "aeio", "lmn", "aeu")]
    lines = (" ".join(words[i:] + words[:i]) + "." for i in range(0, 140, 7))
    path.write_text("\n".join(lines) + "\nonce Ébène x\n", encoding="utf-8")
    return path
