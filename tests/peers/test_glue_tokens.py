"""The encoders' tokenizers against transformers': the same ids and types for texts, pairs and truncated pairs."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hut_jax.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.peers

TEXTS = [
    "The sailors rode the breeze clear of the rocks.",
    "it 's a charming and often affecting journey . ",
    '" The foodservice pie business does not fit our long-term growth strategy .',
    "  two  spaces\tand tabs ",
    "naïve Café CAFÉ e\u0301 北京 店 🇬🇧 \u200d \ufeff\u00a0x İstanbul Straße",
    "price: £20-25, 3.14 $%^&*() __init__ -->",
    "w" * 120,
    "",
    " ".join(["a long text of many words"] * 30),
]


@pytest.fixture(scope="module", params=["roberta", "bert"])
def both(request, tmp_path_factory):
    """Our tokenizer, transformers' from the same files, and transformers' from the files that ours saved."""
    transformers = pytest.importorskip("transformers")
    if request.param == "roberta":
        folder = request.getfixturevalue("real_data") / "tokenizers" / "roberta"
        peer = transformers.RobertaTokenizer.from_pretrained(folder)
    else:
        folder = request.getfixturevalue("minilm")
        peer = transformers.BertTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    saved = tmp_path_factory.mktemp(request.param)
    ours.save(saved)
    return ours, peer, transformers.AutoTokenizer.from_pretrained(saved)


def assert_same(ours, peer, texts, max_length):
    encoded = ours.encode_texts(texts, max_length)
    # As lists, as data sets are encoded: of a single pair, transformers leaves out an empty second text.
    columns = [list(column) for column in zip(*texts, strict=True)]
    wanted = peer(*columns, truncation="longest_first", max_length=max_length, return_token_type_ids=True)
    assert encoded.ids == wanted["input_ids"]
    assert encoded.types == wanted["token_type_ids"]
    assert encoded.truncated == sum(len(ids) > max_length for ids in peer(*columns)["input_ids"])


@pytest.mark.parametrize("max_length", [5, 6, 9, 20, 21, 512])
def test_texts_and_pairs_as_transformers_encodes_them(both, max_length):
    ours, *peers = both
    for peer in peers:
        assert_same(ours, peer, [(text,) for text in TEXTS], max_length)
        pairs = [(one, two) for one in TEXTS for two in TEXTS]
        assert_same(ours, peer, pairs, max(max_length, 6))
    ids = [ours.encode_texts([(text,)], max_length).ids[0] for text in TEXTS]
    assert all(one != other for one, other in itertools.pairwise(ids))  # of other texts, other ids


@given(st.text(), st.text(), st.integers(6, 40))
@settings(max_examples=200)
def test_any_pair_as_transformers_encodes_it(both, one, two, max_length):
    ours, peer, _ = both
    assert_same(ours, peer, [(one, two)], max_length)


def test_the_special_tokens_are_theirs(both):
    ours, *peers = both
    special = tuple(ours.special(role) for role in ("cls", "sep", "pad", "mask"))
    assert len(set(special)) == 4
    for peer in peers:
        wanted = (peer.cls_token_id, peer.sep_token_id, peer.pad_token_id, peer.mask_token_id, len(peer))
        assert (*special, ours.vocab_size) == wanted
