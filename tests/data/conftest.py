from pathlib import Path

import pytest

from hut_jax.data.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    return load_tokenizer(ROOT / "assets" / "tiny")


@pytest.fixture(scope="session")
def gpt2_folder(real_data: Path) -> Path:
    return real_data / "tokenizers" / "gpt2"
