import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from hut_jax import HUT, Adapter, Head, LoRA, UserError
from hut_jax.adapters.hub.card import MARK, head_of, is_ours, metadata_of, write_card

BASE = {"name": "roberta-large", "fingerprint": "0123456789abcdef"}


def test_the_card_says_what_the_adapter_is():
    adapter = Adapter(
        HUT(rank=4), "query|value", exclude="layer_0/", ranks={"value": 2}, also_train="^classifier", layout={}
    )
    card = write_card("user/cola", adapter, 12345, BASE, None, {"matthews|dev": 0.6, "examples": 1043})
    metadata, text = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(metadata) == {
        "library_name": "hut_jax",
        "base_model": "roberta-large",
        "base_model_relation": "adapter",
        "tags": ["hut_jax", "jax", "hut"],
    }
    for line in [
        "# cola",
        "- **Base:** `roberta-large`, fingerprint `0123456789ab`",
        "- **Method:** `HUT(rank=4, spread='block', scale=True, shift=True)`",
        "- **Targets:** `query|value`",
        "- **Left out:** `layer_0/`",
        "- **Ranks:** 2 at `value`",
        "- **Trained in full:** `^classifier`",
        "- **Trainable parameters:** 12,345",
        r"| matthews\|dev | 0.6 |",
        "| examples | 1043 |",
        'adapter, factors = hut_jax.load_adapter("user/cola", params)',
        MARK,
    ]:
        assert line in text.splitlines()
    assert 'model, params = hut_jax.load_pretrained("roberta-large")' in text


HEADS = [
    ({"classifier": {"out": {"kernel": {"d": np.zeros((4, 3))}}}}, Head("classification", num_labels=3)),
    ({"mlm": {"bias": {"d": np.zeros(5)}}}, "mlm"),
    ({"layer_0": {"mlp_norm": {"scale": {"d": np.zeros(5)}}}}, None),
    ({"classifier": {"out": {"a": np.zeros((4, 2)), "b": np.zeros((2, 3))}}}, None),
]


@pytest.mark.parametrize(("factors", "head"), HEADS, ids=["classifier", "masked LM", "a norm", "factors"])
def test_the_card_asks_for_the_head_that_trained(factors, head):
    code = write_card("user/x", Adapter(HUT(rank=4)), 8, BASE, head_of(factors)).split("```")[1].removeprefix("python")
    asked = {}

    def load_pretrained(name, **options):
        asked.update(options)
        raise InterruptedError

    stand_in = SimpleNamespace(Head=Head, load_pretrained=load_pretrained)
    with pytest.raises(InterruptedError):
        exec(code.replace("import hut_jax", ""), {"hut_jax": stand_in})
    assert asked == ({} if head is None else {"head": head, "draw": False})


def test_the_revision_of_a_base_is_in_the_code_alone():
    card = write_card("user/x", Adapter(HUT(rank=4)), 8, {"name": "org/base@v1.0", "fingerprint": None})
    assert metadata_of(card)["base_model"] == "org/base"
    assert "[org/base@v1.0](https://huggingface.co/org/base)" in card
    assert 'load_pretrained("org/base@v1.0")' in card


@pytest.mark.parametrize(
    ("name", "shown"), [("/home/me/secret/small", "An adapter of `small`,"), (None, "a base without a name")]
)
def test_a_base_that_is_not_on_the_hub_is_not_said_to_be(name, shown):
    card = write_card("user/x", Adapter(LoRA(rank=2)), 8, {"name": name, "fingerprint": None})
    assert shown in card
    assert "base_model" not in metadata_of(card)
    assert "secret" not in card
    assert "params = ...  # the base's" in card
    assert "## Scores" not in card


def test_a_folder_is_no_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"name": "runs/lm", "fingerprint": None}
    assert metadata_of(write_card("user/x", Adapter(LoRA(rank=2)), 8, base))["base_model"] == "runs/lm"
    (tmp_path / "runs/lm").mkdir(parents=True)
    assert "base_model" not in metadata_of(write_card("user/x", Adapter(LoRA(rank=2)), 8, base))


def test_a_folder_whose_name_ends_in_an_at_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lm@", "lm@v1"):
        (tmp_path / name).mkdir()
        assert "base_model" not in metadata_of(write_card("user/x", Adapter(LoRA(rank=2)), 8, {"name": name}))


def test_metadata_of_an_earlier_card_is_kept_but_for_ours():
    earlier = {"license": "mit", "language": ["en"], "base_model": "gpt2"}
    card = write_card("user/x", Adapter(LoRA(rank=2)), 8, BASE, metadata=earlier)
    kept = metadata_of(card)
    assert (kept["license"], kept["language"], kept["base_model"]) == ("mit", ["en"], "roberta-large")


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5", None, True], ids=repr)
def test_a_score_is_a_finite_number(value):
    with pytest.raises(UserError, match=r"scores\['f1'\] is .*; give a finite number"):
        write_card("user/x", Adapter(LoRA(rank=2)), 8, BASE, None, {"f1": value})


@pytest.mark.parametrize(
    ("card", "ours"),
    [
        ("", True),
        ("---\nlicense: mit\n---\n", True),
        ("---\nlicense: mit\n---\nMine.", False),
        ("Mine.", False),
        (f"Theirs and mine.\r\n{MARK}\r\n", True),
        ("---\n[: no yaml\n---\n", False),
        ("---\n- no\n- mapping\n---\n", False),
    ],
)
def test_only_a_card_without_words_of_others_may_be_replaced(card, ours):
    assert is_ours(card) == ours
    assert metadata_of(card) == ({"license": "mit"} if "license" in card else {})
