"""BERT's WordPiece: its vocabulary and its settings, checked, and the files they are in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from hut_jax.core.errors import UserError
from hut_jax.data.tokenizer_files import read_json, read_text

# What transformers' BertTokenizer takes where the files do not say; None leaves accents to do_lower_case.
_DEFAULTS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_PREFIX = "##"
_LONGEST_WORD = 100  # characters; a longer word is unknown


def wordpiece(
    vocab: dict[str, int],
    *,
    unknown: str,
    source: str,
    do_lower_case: bool,
    strip_accents: bool | None,
    tokenize_chinese_chars: bool,
) -> tokenizers.Tokenizer:
    """The library's tokenizer: words and punctuation apart, each word as its longest known pieces from the left.

    Args:
        vocab: token -> id; a piece that goes on a word begins with `##`.
        unknown: the token of a word that has no pieces.
        source: where the vocabulary comes from, for error messages.
        do_lower_case: whether text is put in lower case first.
        strip_accents: whether accents are dropped first; None: where text is put in lower case.
        tokenize_chinese_chars: whether each Chinese character is a word.

    Raises:
        UserError: the vocabulary lacks `unknown`.
    """
    if unknown not in vocab:
        raise UserError(f"{source} lacks {unknown!r} among its {len(vocab)} tokens, so it is not BERT's kind")
    backend = tokenizers.Tokenizer(
        models.WordPiece(
            vocab, unk_token=unknown, continuing_subword_prefix=_PREFIX, max_input_chars_per_word=_LONGEST_WORD
        )
    )
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=do_lower_case,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=_PREFIX)
    return backend


def wordpiece_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `tokenizer_config.json` that `wordpiece` takes, or their defaults."""
    return {name: settings.get(name, default) for name, default in _DEFAULTS.items()}


def read_vocab_txt(path: Path) -> dict[str, int]:
    """The vocabulary of a `vocab.txt`: a token a line, its id the line's number from 0.

    Raises:
        UserError: the file cannot be read, or a token comes twice.
    """
    vocab: dict[str, int] = {}
    for number, token in enumerate(read_text(path).removesuffix("\n").split("\n")):
        if token in vocab:
            raise UserError(f"{path}, line {number + 1}: {token!r} is already in line {vocab[token] + 1}")
        vocab[token] = number
    return vocab


def read_wordpiece_json(path: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The vocabulary of a `tokenizer.json` and its settings, by their names in `tokenizer_config.json`.

    Raises:
        UserError: the file cannot be read, or holds another kind of WordPiece than BERT's.
    """
    data = read_json(path)
    try:
        model, normalizer = data["model"], data["normalizer"]
        is_bert = (
            model["type"] == "WordPiece"
            and model["continuing_subword_prefix"] == _PREFIX
            and model.get("max_input_chars_per_word", _LONGEST_WORD) == _LONGEST_WORD
            and normalizer["type"] == "BertNormalizer"
            and normalizer["clean_text"]
            and data["pre_tokenizer"]["type"] == "BertPreTokenizer"
        )
        vocab = model["vocab"] | {token["content"]: token["id"] for token in data.get("added_tokens", ())}
        settings = {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
            "unk_token": model["unk_token"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a tokenizer's JSON: {type(error).__name__} {error}") from error
    if not is_bert:
        raise UserError(f"{path} is no WordPiece as BERT's, the one kind of WordPiece that hut_jax reads")
    return vocab, settings
