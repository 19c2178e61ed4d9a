"""RoBERTa's byte-level BPE and BERT's WordPiece: texts and pairs of texts, framed by special tokens."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import processors

from hut_jax.core.errors import UserError
from hut_jax.data.byte_level_bpe import bpe_files, byte_level_bpe, read_tokenizer_json
from hut_jax.data.tokenizer_base import BaseTokenizer
from hut_jax.data.tokenizer_files import (
    MERGES,
    SETTINGS,
    TOKENIZER_JSON,
    VOCAB_JSON,
    VOCAB_TXT,
    find_folder,
    read_json,
    read_merges,
    read_settings,
    write_files,
)
from hut_jax.data.wordpiece import read_vocab_txt, read_wordpiece_json, wordpiece, wordpiece_settings

# What the special tokens are called where a tokenizer's files do not say.
_SPECIAL = {
    "roberta": {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "unk_token": "<unk>",
    },
    "bert": {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "unk_token": "[UNK]",
    },
}


class EncodedTexts(NamedTuple):
    """Token ids and token types of each example, and how many examples were cut."""

    ids: list[list[int]]
    types: list[list[int]]
    truncated: int


class EncoderTokenizer(BaseTokenizer):
    """The tokenizer of an encoder, which reads one text or two at a time.

    RoBERTa reads `<s> a </s>` and `<s> a </s></s> b </s>`, with token types of 0 (Liu et al., arXiv 1907.11692). BERT
    reads `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, with types of 1 from b on (Devlin et al., arXiv 1810.04805,
    section 3.2). A special token's name within a text is ordinary text.

    Args:
        kind: "roberta" or "bert".
        backend: the library's tokenizer, without special tokens.
        settings: what `tokenizer_config.json` says beyond what is in the backend.
        source: where it comes from, for error messages.

    Attributes:
        cls_id: the token in front.
        sep_id: the token after each text; `eos_id` is the same.
        pad_id: what batches are filled up with.
        mask_id: what hides a token from masked language modelling.

    Raises:
        UserError: the vocabulary lacks a special token.
    """

    def __init__(self, kind: str, backend: tokenizers.Tokenizer, settings: dict[str, Any], *, source: str):
        super().__init__(backend)
        self.kind = kind
        self._settings = settings
        self._vocab = backend.get_vocab()
        self._special = {role: settings.get(role) or token for role, token in _SPECIAL[kind].items()}
        for role, token in self._special.items():
            if token not in self._vocab:
                raise UserError(f"{source} lacks {token!r}, the {role} of a {kind} tokenizer")
        roles = ("cls_token", "sep_token", "pad_token", "mask_token")
        self.cls_id, self.sep_id, self.pad_id, self.mask_id = (self._vocab[self._special[role]] for role in roles)
        self.eos_id = self.sep_id
        self.vocab_size = max(self._vocab.values()) + 1
        cls, sep = self._special["cls_token"], self._special["sep_token"]
        first = [cls, "$A", sep]
        second = [sep, "$B:0", f"{sep}:0"] if kind == "roberta" else ["$B:1", f"{sep}:1"]
        self._framed = tokenizers.Tokenizer.from_str(backend.to_str())
        self._framed.post_processor = processors.TemplateProcessing(
            single=first, pair=[*first, *second], special_tokens=[(cls, self.cls_id), (sep, self.sep_id)]
        )

    def encode_texts(self, texts: Sequence[tuple[str, ...]], max_length: int) -> EncodedTexts:
        """Examples of one text or of two, with special tokens, in their order.

        An example of more than `max_length` tokens loses tokens from the end of its longer text until both are as
        long, and then from the ends of both by turns.

        Args:
            texts: one or two texts an example.
            max_length: tokens of an example, special ones among them.

        Raises:
            UserError: `max_length` has no room for a token of each text.
        """
        pair = any(len(example) == 2 for example in texts)
        needed = self._framed.num_special_tokens_to_add(pair) + (2 if pair else 1)
        if max_length < needed:
            raise UserError(f"max_length is {max_length}; special tokens and one of each text take {needed}")
        self._framed.enable_truncation(max_length, strategy="longest_first")
        encodings = self._framed.encode_batch([example if len(example) == 2 else example[0] for example in texts])
        return EncodedTexts(
            [encoding.ids for encoding in encodings],
            [encoding.type_ids for encoding in encodings],
            sum(bool(encoding.overflowing) for encoding in encodings),
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that `load_encoder_tokenizer` and transformers' `AutoTokenizer` read.

        Raises:
            UserError: the folder cannot be made or written.
        """
        whole = tokenizers.Tokenizer.from_str(self._framed.to_str())
        whole.no_truncation()
        whole.add_special_tokens(
            [
                # RoBERTa's mask takes the space before it along, as the word that it hides would.
                tokenizers.AddedToken(token, lstrip=self.kind == "roberta" and role == "mask_token", normalized=False)
                for role, token in self._special.items()
            ]
        )
        if self.kind == "roberta":
            model = json.loads(self._backend.to_str())["model"]
            files = bpe_files(self._vocab, [tuple(merge) for merge in model["merges"]])
            own = {"tokenizer_class": "RobertaTokenizer", "bos_token": self._special["cls_token"]}
            own["eos_token"] = self._special["sep_token"]
        else:
            files = {VOCAB_TXT: "".join(f"{token}\n" for token in sorted(self._vocab, key=self._vocab.__getitem__))}
            own = {"tokenizer_class": "BertTokenizer"}
        settings = {**self._settings, **own, **self._special}
        files |= {TOKENIZER_JSON: whole.to_str(), SETTINGS: json.dumps(settings, indent=2, ensure_ascii=False) + "\n"}
        write_files(folder, files)


def load_encoder_tokenizer(name: str | os.PathLike[str]) -> EncoderTokenizer:
    """RoBERTa's or BERT's tokenizer, whichever a folder or a hub name has.

    Args:
        name: a folder or a name on the Hugging Face hub, such as `roberta-base`, which is downloaded once and then
            found in the hub's cache. `vocab.json` and `merges.txt` are RoBERTa's, `vocab.txt` is BERT's; without
            them `tokenizer.json` is read. `tokenizer_config.json` and `special_tokens_map.json` name the special
            tokens and say whether BERT's text is put in lower case.

    Raises:
        UserError: there is no such folder or name, a file is missing or malformed, or it is another tokenizer.
    """
    folder = find_folder(name)
    settings = read_settings(folder)
    if (folder / VOCAB_JSON).is_file() and (folder / MERGES).is_file():
        vocab, merges = read_json(folder / VOCAB_JSON), read_merges(folder / MERGES)
        return _roberta(vocab, merges, settings, folder / VOCAB_JSON)
    json_file = folder / TOKENIZER_JSON
    kind = _kind_of(json_file) if json_file.is_file() else None
    if (folder / VOCAB_TXT).is_file():
        stored = read_wordpiece_json(json_file)[1] if kind == "WordPiece" else {}
        return _bert(read_vocab_txt(folder / VOCAB_TXT), stored | settings, folder / VOCAB_TXT)
    if kind == "WordPiece":
        vocab, stored = read_wordpiece_json(json_file)
        return _bert(vocab, stored | settings, json_file)
    if kind == "BPE":
        return _roberta(*read_tokenizer_json(json_file), settings, json_file)
    found = [file for file in (VOCAB_JSON, MERGES) if (folder / file).is_file()]
    raise UserError(
        f"no tokenizer in {folder}: wanted vocab.txt, vocab.json and merges.txt, or tokenizer.json; "
        f"found {' and '.join(found) or 'none of them'}"
    )


def _roberta(vocab: Any, merges: list[tuple[str, str]], settings: dict[str, Any], path: Path) -> EncoderTokenizer:
    prefix = bool(settings.get("add_prefix_space", False))
    backend = byte_level_bpe(vocab, merges, source=str(path), add_prefix_space=prefix)
    return EncoderTokenizer("roberta", backend, {**_tokens(settings), "add_prefix_space": prefix}, source=str(path))


def _bert(vocab: dict[str, int], settings: dict[str, Any], path: Path) -> EncoderTokenizer:
    options = wordpiece_settings(settings)
    unknown = settings.get("unk_token") or _SPECIAL["bert"]["unk_token"]
    backend = wordpiece(vocab, unknown=unknown, source=str(path), **options)
    return EncoderTokenizer("bert", backend, {**_tokens(settings), **options}, source=str(path))


def _tokens(settings: dict[str, Any]) -> dict[str, Any]:
    return {role: settings[role] for role in _SPECIAL["bert"] if role in settings}


def _kind_of(json_file: Path) -> str:
    try:
        kind = read_json(json_file)["model"]["type"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{json_file} is not a tokenizer's JSON: {type(error).__name__} {error}") from error
    if kind not in ("BPE", "WordPiece"):
        raise UserError(f"{json_file} is a {kind} tokenizer; RoBERTa's BPE and BERT's WordPiece are read")
    return kind
