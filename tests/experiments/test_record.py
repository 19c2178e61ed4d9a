"""Records of runs: what is written is read, and what is no record is refused with the reason."""

import json
import re

import pytest

from experiments.record import PATHS, RECORD, complete, fields_of, parse_name, portable, read_record, write_record
from hut_jax.config import default_config, flatten_config
from hut_jax.core.errors import UserError


def test_what_is_written_is_read(make, tmp_path):
    record = make(forgetting={"text": "books", "before": 3.0, "after": 3.5})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: "[]", "holds no JSON object, but a list"),
        (lambda text: changed(text, "seed", None), "record.seed is None; it must be a whole number"),
        (lambda text: changed(text, "seed", True), "record.seed is True; it must be a whole number"),
        (lambda text: changed(text, "maximize", 1), "record.maximize is 1; it must be True or False"),
        (lambda text: changed(text, "score", "0.5"), "record.score is '0.5'; it must be a number"),
        (lambda text: changed(text, "spare", 1), "unknown field record.spare"),
        (lambda text: text.replace('"platform"', '"system"'), "record.platform is missing"),
    ],
)
def test_what_is_no_record_is_named(change, reason, make, tmp_path):
    write_record(tmp_path, make())
    path = tmp_path / RECORD
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + re.escape(reason)):
        read_record(tmp_path)


def changed(text, field, value):
    return json.dumps(json.loads(text) | {field: value})


def test_a_name_holds_method_settings_and_the_multiple_of_the_learning_rate():
    def parsed(name):
        fields = parse_name(name)
        return fields["method"], fields["settings"], fields["learning_rate_multiple"]

    assert parsed("hut,rank=4/0.15/0") == ("hut", "", 0.15)
    assert parsed("hut,rank=4,spread=cyclic,shift=False/5/1") == ("hut", "spread=cyclic, shift=False", 5.0)
    assert parsed("hut,rank=4,targets=('query$','value$')/1/0") == ("hut", "targets=('query$','value$')", 1.0)
    assert parsed("ia3,targets=()/1/0") == ("ia3", "", 1.0)


def test_what_was_found_after_training_is_in_the_record(make, tmp_path):
    record = make()
    assert complete(record, tmp_path) == record
    (tmp_path / "evaluation.json").write_text('{"scores": {"BLEU": 0.5}}')
    (tmp_path / "test_outputs.txt").write_text("a café\nan inn\n", encoding="utf-8")
    (tmp_path / "movement.json").write_text('{"kernels": [{"kernel": "layer_0/query", "norm": 0.5}]}')
    whole = complete(record, tmp_path)
    assert whole.evaluation == {"scores": {"BLEU": 0.5}, "texts": ["a café", "an inn"]}
    assert whole.movement == [{"kernel": "layer_0/query", "norm": 0.5}]


@pytest.mark.parametrize("task", ["e2e", "lm"])
def test_a_record_has_no_path_of_this_machine(task):
    assert portable("/somewhere/site-packages/encoder/model") == "encoder/model"
    assert portable("runs/encoder/model") == "encoder/model"
    assert [portable(value) for value in ("assets/tiny", "gpt2-medium", "")] == ["assets/tiny", "gpt2-medium", ""]
    config = default_config(task)
    named = [field for field in PATHS if field in flatten_config(config)]
    for field in named:
        config.update_from_flattened_dict({field: f"/somewhere/of/mine/{field}"})
    config.adapter.exclude = ("/layer_0/attention/query$",)  # a pattern, and no path
    fields = fields_of(config)
    assert "somewhere" not in json.dumps(fields)
    assert {field: fields[field] for field in named} == {field: f"mine/{field}" for field in named}
    assert fields["adapter.exclude"] == ["/layer_0/attention/query$"]


def test_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no record\.json in"):
        read_record(tmp_path)
