"""The names that earlier versions wrote."""

import json

from hut_jax.runs.result import read_result
from hut_jax.training.earlier_names import current_names
from hut_jax.training.log import read_metrics
from hut_jax.training.progress import Progress


def test_a_result_names_its_score(tmp_path):
    best = {"step": 3, "loss": 0.5, "matthews": 0.2, "headline": 0.2}
    (tmp_path / "result.json").write_text(json.dumps({"best": best, "headline": "headline", "maximize": True}))
    now = {"step": 3, "loss": 0.5, "matthews": 0.2, "score": 0.2}
    assert read_result(tmp_path) == {"best": now, "score_name": "score", "maximize": True}
    assert current_names({"headline": "loss"}) == {"score_name": "loss"}


def test_a_log_has_seconds_per_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "split": "train", "seconds_per_update": 0.5}\n')
    assert read_metrics(tmp_path) == [{"step": 2, "split": "train", "seconds_per_step": 0.5}]


def test_progress_is_the_same_after_json_and_takes_the_earlier_names():
    progress = Progress({"next_index": 2}, [{"loss": 1.0}], 3, {"score": 0.1}, {"step": 1, "score": 0.2}, 1.5, False)
    written = json.loads(json.dumps(progress.to_json()))
    assert Progress.from_json(written) == progress
    earlier = written | {"last": {"headline": 0.1}, "best": {"step": 1, "headline": 0.2}}
    assert Progress.from_json(earlier) == progress
