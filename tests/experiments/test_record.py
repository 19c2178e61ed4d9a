"""Records: what is written is read, and what is no record is refused with the reason."""

import json
import re

import pytest

from experiments.record import PATHS, RECORD, fields_of, portable, read_record, write_record
from hut_jax.config import default_config, flatten_config
from hut_jax.core.errors import UserError


def test_what_is_written_is_read(make, tmp_path):
    record = make(forgetting={"text": "books", "before": 3.0, "after": 3.5})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "is no JSON"),
        (lambda text: "[]", "it has too much or too little of an object"),
        (lambda text: changed(text, "seed", None), "seed is None, and should be of type <class 'int'>"),
        (lambda text: changed(text, "maximize", 1), "maximize is 1, and should be of type <class 'bool'>"),
        (lambda text: changed(text, "trainable", True), "trainable is True"),
        (lambda text: changed(text, "best", {"step": 3}), "best has no accuracy"),
        (lambda text: changed(text, "spare", 1), "it has too much or too little of spare"),
        (lambda text: text.replace('"platform"', '"system"'), "it has too much or too little of platform, system"),
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
    with pytest.raises(UserError, match=r"record\.json: No such file"):
        read_record(tmp_path)
