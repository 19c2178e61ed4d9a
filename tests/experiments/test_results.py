"""A study's JSONL: what is written is read, whole; and what is no study is refused."""

import json

import pytest

from experiments.record import write_record
from experiments.results import read_study, write_study
from hut_jax import UserError


@pytest.fixture
def records(make):
    lora = make("lora", config={"adapter.name": "lora", "adapter.rank": 4, "adapter.alpha": 16.0, "data.dir": "x"})
    hut = make(
        config={"adapter.name": "hut", "adapter.rank": 4, "data.dir": "x"},
        evaluation={"scores": {"BLEU": 0.5}, "texts": ["a café", "line\u2028separator"]},
        forgetting={"text": "books", "before": 3.0, "after": 3.5},
    )
    return [hut, lora]


def test_what_is_written_is_read_and_what_all_share_stands_once(records, tmp_path):
    write_study(tmp_path / "study.jsonl", reversed(records))
    assert read_study(tmp_path / "study.jsonl") == records
    head, *runs = [json.loads(line) for line in (tmp_path / "study.jsonl").read_text().split("\n")[:-1]]
    assert head == {"study": "study", "config": {"adapter.rank": 4, "data.dir": "x"}}
    assert [run["config"] for run in runs] == [
        {"adapter.name": "hut"},
        {"adapter.alpha": 16.0, "adapter.name": "lora"},
    ]


def test_a_workdir_is_read_run_by_run_with_what_was_found_later(records, tmp_path):
    for record in records:
        (tmp_path / record.name).mkdir(parents=True)
        write_record(tmp_path / record.name, record)
    (tmp_path / records[1].name / "movement.json").write_text('{"kernels": []}')
    hut, lora = read_study(tmp_path)
    assert (hut, lora.movement) == (records[0], [])


def test_a_seed_that_is_there_twice_is_refused(make, tmp_path):
    write_study(tmp_path / "study.jsonl", [make(name=name) for name in ("hut/1/0", "hut,rank=4/1/0")])
    with pytest.raises(UserError, match="hut,rank=4/1/0 and hut/1/0 are the same run; take one of them away"):
        read_study(tmp_path / "study.jsonl")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no study's JSONL"),
        ("{}\n", "no run in"),
        ('{"config": {}}\n{"name": "hut/1/0"}\n', "is no study's JSONL: 'config'"),
        (
            '{"config": {}}\n{"config": {}, "name": "hut/1/0"}\n',
            "line 2 of .* is no record of this version: record.method is missing",
        ),
        ("[]\n[]\n", "is no study's JSONL"),
        ('{"config"', "is no study's JSONL"),
    ],
)
def test_what_is_no_study_is_named(text, reason, tmp_path):
    (tmp_path / "study.jsonl").write_text(text)
    with pytest.raises(UserError, match=reason):
        read_study(tmp_path / "study.jsonl")
    with pytest.raises(UserError, match=r"cannot read .*none\.jsonl: No such file"):
        read_study(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="no run in"):
        read_study(tmp_path)
