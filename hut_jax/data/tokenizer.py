"""The tokenizer of a base: transformers' own, called for many texts at once."""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from hut_jax.core.errors import UserError, one_line
from hut_jax.core.files import read_json, write_json
from hut_jax.core.locate import locate
from hut_jax.data.python_backend import PythonBackend

_JSON, _VOCAB, _MERGES, _WORDS = "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"
_SETTINGS, _NAMES, _CONFIG = "tokenizer_config.json", "special_tokens_map.json", "config.json"
_PIECES = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model")  # SentencePiece's, by transformers' names
_CODES = "bpe.codes"  # beside a vocab.txt: BERTweet's and PhoBERT's
_TEMPLATE = "chat_template.jinja"
_FILES = (
    *(_JSON, _VOCAB, _MERGES, _WORDS, _CODES, *_PIECES),
    *(_SETTINGS, _NAMES, "added_tokens.json", _TEMPLATE),
)
_TEMPLATES = "additional_chat_templates"  # a folder beside chat_template.jinja, the default
_FOREIGN = ("_file", "_files", "_kwargs", "init_inputs", "vocab", "merges", "auto_map")  # may name any file, or code

_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_PROBE = " A caf\u00e9's  2nd\tMenu\n\u2603"  # what tokenizers treat differently: accents, digits, white space

# The usual names of the special tokens, for a tokenizer.json that stands alone and does not say which is which.
_USUAL = {
    "eos_token": ("<|endoftext|>", "</s>"),
    "cls_token": ("<s>", "[CLS]"),
    "sep_token": ("</s>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]"),
    "mask_token": ("<mask>", "[MASK]"),
}


class EncodedTexts(NamedTuple):
    """Token ids and token types of each example, and how many examples were cut."""

    ids: list[list[int]]
    types: list[list[int]]
    truncated: int


class Tokenizer:
    """Text to token ids and back, with transformers' tokens. A special token that a text spells out is that token.

    Attributes:
        auto: transformers' tokenizer, for what is not here, such as chat templates.
        vocab_size: one more than the largest token id.
        eos_id: the token that ends a text; BERT's is `[SEP]`.
    """

    def __init__(self, auto: Any, folder: Path, settings: dict[str, Any] | None = None):
        self.auto, self._folder, self._settings = auto, folder, settings
        self._template = ""
        self._backend = auto.backend_tokenizer if auto.is_fast else PythonBackend(auto)
        self._backend.encode_special_tokens = bool(auto.split_special_tokens)
        self._backend.no_truncation()  # a tokenizer.json may hold both
        self._backend.no_padding()
        # A class of its own says whether it tells the texts of a pair apart, as BERT's does and DistilBERT's does not.
        generic = type(auto).__name__ in _GENERIC and "model_input_names" not in auto.init_kwargs
        self._tells_apart = generic or "token_type_ids" in auto.model_input_names
        self._ids = set(self._backend.get_vocab(with_added_tokens=True).values())
        self.vocab_size = max(self._ids, default=-1) + 1
        self.eos_id = self.special("eos" if auto.sep_token_id is None or auto.eos_token_id is not None else "sep")

    @property
    def chat_template(self) -> str:
        """The chat template, in Jinja; empty if there is none. Another one is saved with the tokenizer."""
        template = self.auto.chat_template
        return template if isinstance(template, str) else (template or {}).get("default", "")

    @chat_template.setter
    def chat_template(self, template: str) -> None:
        self.auto.chat_template = self._template = template

    def check(self) -> None:
        """Check that there are tokens of text.

        Raises:
            UserError: there are none, since transformers' class reads other files than the folder has.
        """
        if self._ids <= {*self.auto.all_special_ids, *self.auto.added_tokens_decoder}:
            raise UserError(
                f"{type(self.auto).__name__} finds no tokens but special ones in {self._folder}; name the class that "
                f'reads its files in {_SETTINGS}: "tokenizer_class": "..."'
            )

    def special(self, role: str) -> int:
        """The id of the special token "eos", "cls" (in front), "sep" (after a text), "pad" or "mask".

        Raises:
            UserError: the tokenizer has none.
        """
        if (found := getattr(self.auto, f"{role}_token_id")) is None:
            raise UserError(f'{self._folder} has no {role} token; name one in {_SETTINGS}: "{role}_token": "..."')
        return int(found)

    def pad_with_end(self) -> None:
        """Take the end token for padding if the tokenizer has no token for it; saved files say so, too."""
        if self.auto.pad_token_id is None:
            self.auto.pad_token = self.auto.convert_ids_to_tokens(self.eos_id)
            file = self._folder / _SETTINGS
            told = self._settings or (read_json(file) if file.is_file() else {})
            self._settings = told | {"pad_token": self.auto.pad_token}

    @property
    def fingerprint(self) -> str:
        """A digest of the tokens, and of how a text is cut into them; the same for other files of one tokenizer."""
        tokens = sorted(self._backend.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps([tokens, self.encode(_PROBE)]).encode()).hexdigest()

    def missing(self, vocab_size: int) -> tuple[int, ...]:
        """The ids below `vocab_size` that are no tokens, such as those that pad a model's vocabulary."""
        return tuple(sorted(set(range(vocab_size)) - self._ids))

    def encode(self, text: str) -> list[int]:
        """The ids of one text; see `encode_batch`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of many texts, any Unicode, encoded in parallel. Nothing is added before or after."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    @cached_property
    def begin_ids(self) -> list[int]:
        """The tokens that the tokenizer adds in front of a text, such as Llama 3's; GPT-2's adds none."""
        bare, framed = self.encode("a"), self._backend.encode_batch(["a"])[0].ids
        return framed[: next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)]

    def encode_places(self, text: str) -> tuple[Int32[np.ndarray, " n"], Int64[np.ndarray, "n 2"]]:
        """The ids of one text, and the characters of it at which each token begins and ends (exclusive).

        Raises:
            UserError: the tokenizer does not know where its tokens begin.
        """
        if isinstance(self._backend, PythonBackend):
            raise UserError(
                f"the tokenizer in {self._folder} has no fast version in transformers, so it does not know where in a "
                f"text its tokens begin; name one with a {_JSON} in config.tokenizer"
            )
        encoding = self._backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def encode_texts(self, texts: Sequence[tuple[str, ...]], max_length: int) -> EncodedTexts:
        """Examples of one text or of two, with the special tokens of their frame.

        An example of more than `max_length` tokens loses tokens from the end of its longer text until both are as
        long, and then from the ends of both by turns.

        Args:
            texts: one or two texts an example.
            max_length: tokens of an example, special ones among them.

        Raises:
            UserError: `max_length` has no room for a token of each text.
        """
        pair = any(len(example) == 2 for example in texts)
        needed = self._backend.num_special_tokens_to_add(pair) + (2 if pair else 1)
        if max_length < needed:
            raise UserError(f"max_length is {max_length}; special tokens and one of each text take {needed}")
        self._backend.enable_truncation(max_length, strategy="longest_first", direction=self.auto.truncation_side)
        try:
            found = self._backend.encode_batch([example if len(example) == 2 else example[0] for example in texts])
        finally:
            self._backend.no_truncation()
        cut = sum(bool(one.overflowing) for one in found)
        types = [one.type_ids if self._tells_apart else [0] * len(one.ids) for one in found]
        return EncodedTexts([one.ids for one in found], types, cut)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Bytes that are no UTF-8 become U+FFFD, and ids that are no tokens are left out."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Copy the tokenizer's files to a folder, in place of those that it has.

        Raises:
            UserError: a file cannot be read or written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not folder.samefile(self._folder):
                for name in _files(folder):
                    (folder / name).unlink()
                _copy_files(self._folder, folder)
            if self._settings:
                write_json(folder / _SETTINGS, self._settings)
            if self._template:
                (folder / _TEMPLATE).write_text(self._template, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write the tokenizer to {folder}: {error.strerror}") from error


def load_tokenizer(name: str | os.PathLike[str], *roles: str) -> Tokenizer:
    """The tokenizer that transformers' `AutoTokenizer` finds in a folder or under a hub name.

    Where neither `tokenizer_config.json` nor `config.json` says which it is, a `tokenizer.json` is taken as it is, a
    `tokenizer.model` for Llama's, a `vocab.json` for RoBERTa's if it has its special tokens and else for GPT-2's, and a
    `vocab.txt` for BERT's.

    Args:
        name: a folder, or a name on the Hugging Face hub such as `gpt2`.
        *roles: special tokens that are needed; see `Tokenizer.special`.

    Raises:
        UserError: there is no such folder or name, a file is missing or malformed, or a special token is missing.
    """
    folder, previous = locate(name, [*_FILES, f"{_TEMPLATES}/*.jinja", _CONFIG]), logging.root.manager.disable
    with tempfile.TemporaryDirectory() as copy:
        logging.disable(logging.WARNING)  # transformers says that there is no PyTorch
        try:
            settings = _copy(folder, Path(copy))
            from transformers import AutoTokenizer

            auto = AutoTokenizer.from_pretrained(copy, trust_remote_code=False, local_files_only=True)
            tokenizer = Tokenizer(auto, folder, settings)
            tokenizer.check()
            _ = tokenizer.encode("\u2603"), [tokenizer.special(role) for role in roles]  # for their errors
            return tokenizer
        except UserError:
            raise
        except Exception as error:  # whatever the class that the files name raises
            reason = one_line(error).replace(copy, str(folder))
            raise UserError(f"transformers cannot read the tokenizer in {folder}: {reason}") from error
        finally:
            logging.disable(previous)


def _files(folder: Path) -> list[str]:
    """The names of the tokenizer's files in a folder."""
    names = [*_FILES, *(f"{_TEMPLATES}/{path.name}" for path in sorted((folder / _TEMPLATES).glob("*.jinja")))]
    return [name for name in names if (folder / name).is_file()]


def _copy_files(source: Path, folder: Path) -> None:
    for name in _files(source):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _copy(folder: Path, copy: Path) -> dict[str, Any] | None:
    """Copy what transformers may read, and settings that name no other file. Returns settings that were lacking."""
    there = {*_files(folder)}
    if not (there & {_JSON, _WORDS, *_PIECES} or {_VOCAB, _MERGES} <= there):
        raise UserError(f"no {_JSON}, no {_VOCAB} and {_MERGES}, no {_WORDS} and no {_PIECES[0]} in {folder}")
    if there & {*_PIECES} and not there & {_JSON, _WORDS, _VOCAB} and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(f"{folder} has no {_JSON}, and the file beside it wants: pip install sentencepiece protobuf")
    _copy_files(folder, copy)
    files = {name: read_json(folder / name) for name in there if name.endswith(".json")}
    model = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
    model = {key: model[key] for key in ("model_type", "tokenizer_class") if isinstance(model.get(key), str)}
    told = files.get(_SETTINGS, {})
    lacking = None if told.get("tokenizer_class") or model else _implied(folder, files) | told
    settings = {k: v for k, v in (lacking or told).items() if not k.endswith(_FOREIGN)}
    if _NAMES in there:
        write_json(copy / _NAMES, {k: v for k, v in files[_NAMES].items() if k.endswith(("_token", "_tokens"))})
    # What transformers 5 writes, as 4 reads it; 4 also forgets the prefix space that a tokenizer.json adds.
    if settings.get("tokenizer_class") in ("TokenizersBackend", generic := "PreTrainedTokenizerFast"):
        space = (files.get(_JSON, {}).get("pre_tokenizer") or {}).get("add_prefix_space", False)
        settings = {"add_prefix_space": space} | settings | {"tokenizer_class": generic}
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(copy / _SETTINGS, settings)
    write_json(copy / _CONFIG, model)
    return lacking


def _implied(folder: Path, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if _JSON not in files and (folder / _PIECES[0]).is_file():
        return {"tokenizer_class": "LlamaTokenizer"}
    if _JSON not in files:
        kind = "Roberta" if {"<s>", "<mask>"} <= set(files.get(_VOCAB, ())) else "GPT2" if _VOCAB in files else "Bert"
        return {"tokenizer_class": f"{kind}Tokenizer"}
    known = [one["content"] for one in files[_JSON].get("added_tokens") or ()] or files[_JSON]["model"]["vocab"]
    roles = {role: next((name for name in names if name in known), None) for role, names in _USUAL.items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **files.get(_NAMES, {})}
