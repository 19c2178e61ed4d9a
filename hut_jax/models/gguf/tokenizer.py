"""The tokenizer of a GGUF file, made from its metadata: byte-level BPE, and the BPE of SentencePiece."""

import itertools
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from hut_jax.core.errors import UserError, one_line
from hut_jax.models.gguf.fields import Fields
from hut_jax.models.gguf.splitting import SPLITTING, Splitting

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_LONGEST = 512  # characters of a piece
_SPACE = "\u2581"  # SentencePiece's
_ELSEWHERE = "take the tokenizer from where the model was published, and leave this one out with --no-tokenizer"
_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


class _Vocabulary(NamedTuple):
    """The tokens of a file, and the kind of each."""

    tokens: list[str]
    kinds: list[int]

    def ids(self) -> dict[str, int]:
        """The id of each token that is one; a vocabulary may be filled up with others."""
        return {
            token: i for i, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True)) if kind != _UNUSED
        }

    def of(self, *kinds: int) -> list[str]:
        """The tokens of these kinds."""
        return [token for token, kind in zip(self.tokens, self.kinds, strict=True) if token and kind in kinds]


def read_tokenizer(fields: Fields) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer, and the fields of its tokenizer_config.json.

    Raises:
        UserError: the metadata lack something, or the kind of tokenizer is not supported.
    """
    kind = fields.text(".tokenizer.ggml.model")
    tokens = fields.texts(".tokenizer.ggml.tokens")
    typed = fields.has(".tokenizer.ggml.token_type")
    kinds = fields.numbers(".tokenizer.ggml.token_type", len(tokens)) if typed else [_NORMAL] * len(tokens)
    vocabulary = _Vocabulary(tokens, kinds)
    special = {name: _token(fields, role, tokens) for role, name in _ROLES.items()}
    try:
        if kind == "gpt2":
            splitting = _splitting(fields)
            tokenizer = _byte_level(fields, vocabulary, splitting)
        elif kind == "llama":
            splitting = Splitting(adds_bos=True)
            tokenizer = _sentencepiece(fields, vocabulary, special["unk_token"])
        else:
            raise fields.error(f"a tokenizer of the kind {kind!r} is not supported; {_ELSEWHERE}")
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        raise fields.error(f"its tokenizer cannot be made: {one_line(error)}") from None
    whole = [AddedToken(token, normalized=False, special=True) for token in vocabulary.of(_UNKNOWN, _CONTROL)]
    tokenizer.add_special_tokens(whole)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in vocabulary.of(_USER_DEFINED)])
    _frame(tokenizer, fields, special, splitting)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields.whole("context_length"),
        **{name: token for name, token in special.items() if token is not None},
    }
    if fields.has(".tokenizer.chat_template"):
        settings["chat_template"] = fields.text(".tokenizer.chat_template")
    return tokenizer, settings


def _token(fields: Fields, role: str, tokens: list[str]) -> str | None:
    name = f".tokenizer.ggml.{role}_token_id"
    if not fields.has(name):
        return None
    i = fields.whole(name, least=0)
    if i >= len(tokens):
        raise fields.error(f"{name[1:]} is {i}, and there are {len(tokens)} tokens")
    return tokens[i]


def _splitting(fields: Fields) -> Splitting:
    name = fields.text(".tokenizer.ggml.pre", "missing")
    if name not in SPLITTING:
        raise fields.error(f"how its tokenizer splits a text (tokenizer.ggml.pre: {name!r}) is not known; {_ELSEWHERE}")
    return SPLITTING[name]


def _byte_level(fields: Fields, vocabulary: _Vocabulary, splitting: Splitting) -> tokenizers.Tokenizer:
    parts = [merge.partition(" ") for merge in fields.texts(".tokenizer.ggml.merges")]
    if not all(left and right for left, _, right in parts):
        raise fields.error("tokenizer.ggml.merges must be pairs with a space between")
    merges = [(left, right) for left, _, right in parts]
    bpe = tokenizers.Tokenizer(models.BPE(vocabulary.ids(), merges, ignore_merges=splitting.whole_words))
    pattern = splitting.pattern
    if splitting.composed:
        bpe.normalizer = normalizers.NFC()
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    first: list[pre_tokenizers.PreTokenizer] = []
    if splitting.digits:
        first.append(pre_tokenizers.Digits(individual_digits=True))
    if pattern is not None:
        first.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*first, bytes_]) if first else bytes_
    bpe.decoder = decoders.ByteLevel()
    return bpe


def _sentencepiece(fields: Fields, vocabulary: _Vocabulary, unknown: str | None) -> tokenizers.Tokenizer:
    scores = fields.numbers(".tokenizer.ggml.scores", len(vocabulary.tokens))
    ids = vocabulary.ids()
    bpe = tokenizers.Tokenizer(
        models.BPE(ids, _merges(fields, vocabulary, scores), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = fields.flag(".tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    text = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    bpe.decoder = decoders.Sequence([*text, decoders.Strip(" ", 1, 0)] if prefix else text)
    return bpe


def _merges(fields: Fields, vocabulary: _Vocabulary, scores: list[float]) -> list[tuple[str, str]]:
    """The merges that give SentencePiece's pieces: it joins the two neighbours whose joint piece has the best score."""
    ids = {token: i for token, i in vocabulary.ids().items() if vocabulary.kinds[i] == _NORMAL}
    longest = max(map(len, ids), default=0)
    if longest > _LONGEST:  # all its cuts are tried
        raise fields.error(f"a token of {longest} characters; SentencePiece has none of more than {_LONGEST}")
    found = []
    for piece, i in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-scores[i], i, ids[left], ids[right]))
    tokens = vocabulary.tokens
    return [(tokens[left], tokens[right]) for _, _, left, right in sorted(found)]


def _frame(
    tokenizer: tokenizers.Tokenizer, fields: Fields, special: dict[str, str | None], splitting: Splitting
) -> None:
    """Let the tokenizer add the tokens that begin and end a text, if the file asks for them."""
    begin, end = special["bos_token"], special["eos_token"]
    first = [begin] if begin and fields.flag(".tokenizer.ggml.add_bos_token", splitting.adds_bos) else []
    last = [end] if end and fields.flag(".tokenizer.ggml.add_eos_token", False) else []
    if not first and not last:
        return
    single, second = [*first, "$A", *last], [*first, "$B", *last]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *(f"{piece}:1" for piece in second)],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(itertools.chain(first, last))],
    )
