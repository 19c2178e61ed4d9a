"""Byte-level BPE, which GPT-2 and RoBERTa share: its vocabulary and merges, checked, and the files they are in."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from hut_jax.core.errors import UserError, one_line
from hut_jax.data.tokenizer_files import MERGES, VOCAB_JSON, read_json


def byte_level_bpe(
    vocab: Any, merges: Sequence[tuple[str, str]], *, source: str, add_prefix_space: bool = False
) -> tokenizers.Tokenizer:
    """The library's tokenizer for a vocabulary in GPT-2's alphabet of 256 printable stand-ins for bytes.

    Args:
        vocab: token -> id.
        merges: pairs of tokens, the earliest merged first.
        source: where they come from, for error messages.
        add_prefix_space: whether a text that starts with no space is encoded as if it did.

    Raises:
        UserError: the vocabulary is none, lacks a byte, its ids are not 0, 1, 2, ..., or a merge does not fit it.
    """
    if not isinstance(vocab, dict) or not all(type(value) is int for value in vocab.values()):
        raise UserError(f"{source}: a vocabulary is a JSON object of token to id")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise UserError(f"{source}: the ids of {len(vocab)} tokens should be 0 to {len(vocab) - 1}, each once")
    absent = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(vocab))
    if absent:
        raise UserError(f"{source} lacks {len(absent)} of the 256 byte tokens, {absent[0]!r} for one")
    try:
        model = models.BPE(vocab=vocab, merges=list(merges))
    except Exception as error:  # what the library raises where a merge names no token
        raise UserError(f"{source}: merges and vocabulary do not fit: {one_line(error)}") from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary, with the tokens added to it, and the merges of a `tokenizer.json`.

    Raises:
        UserError: the file cannot be read, or holds another kind of tokenizer.
    """
    data = read_json(path)
    try:
        model, splitter = data["model"], data["pre_tokenizer"]
        is_plain = (
            model["type"] == "BPE"
            and splitter["type"] == "ByteLevel"
            and not splitter["add_prefix_space"]
            and splitter.get("use_regex", True)
            and data["normalizer"] is None
        )
        # Older files hold a merge as one string, newer ones as a pair.
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        vocab = model["vocab"] | {token["content"]: token["id"] for token in data.get("added_tokens", ())}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a tokenizer's JSON: {type(error).__name__} {error}") from error
    if not is_plain or any(len(merge) != 2 for merge in merges):
        raise UserError(f"{path} is no byte-level BPE as GPT-2's, the one kind of BPE that hut_jax reads")
    return vocab, merges


def bpe_files(vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What `vocab.json` and `merges.txt` hold."""
    in_order = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    return {VOCAB_JSON: json.dumps(in_order, ensure_ascii=False) + "\n", MERGES: "\n".join(lines) + "\n"}
