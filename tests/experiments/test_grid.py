"""Which runs stand and are not made again, and what of the machine each of the others has."""

import os
import signal

import jax
import pytest

from experiments import grid
from experiments.grid import Slot, elsewhere, run_missing, slots
from experiments.record import fields_of, write_record
from hut_jax import UserError
from hut_jax.config import freeze, to_json, with_fields
from hut_jax.core.errors import Interrupted
from hut_jax.runs import config_files


def test_a_record_stands_as_long_as_its_config_computes_the_same(make, tmp_path):
    config = freeze(config_files.load_config_file("configs/glue.py:mrpc"))
    fields = fields_of(config)
    del fields["eval.max_examples"]  # as an earlier version had it
    record = make(config=fields)
    (tmp_path / "one").mkdir()
    write_record(tmp_path / "one", record)
    config = with_fields(config, {"data.dir": "/elsewhere", "train.remat": "full"})
    assert run_missing({"one": config}, tmp_path) == {"one": record}
    with pytest.raises(UserError, match=r"one holds .*: eval.max_examples is 7 and was 0; give another --workdir"):
        run_missing({"one": with_fields(config, {"eval.max_examples": 7})}, tmp_path)
    other = with_fields(config, {"train.learning_rate": 0.5, "adapter.rank": 4})
    with pytest.raises(
        UserError, match=r"one holds .*: adapter.rank is 4 and was 8; train.learning_rate is 0.5 and was"
    ):
        run_missing({"one": other}, tmp_path)
    with pytest.raises(UserError, match="one holds a run of another base, with other weights; give another --workdir"):
        run_missing({"one": config}, tmp_path, base="another")
    assert run_missing({"one": config}, tmp_path, base=record.base["fingerprint"]) == {"one": record}
    with pytest.raises(UserError, match="one holds a run whose forgetting was measured on no text"):
        run_missing({"one": config}, tmp_path, text="books.txt")


def test_a_path_is_the_same_from_any_folder(make, tmp_path):
    config = config_files.load_config_file("configs/glue.py:mrpc")
    config.model, config.adapter.targets = "/there/roberta/merged", ("encoder/layer_0/query$",)
    record = make(config=fields_of(freeze(config)))
    assert record.config["adapter.targets"] == ["encoder/layer_0/query$"]
    (tmp_path / "one").mkdir()
    write_record(tmp_path / "one", record)
    config.model = "runs/roberta/merged"
    assert run_missing({"one": freeze(config)}, tmp_path) == {"one": record}


def test_what_was_begun_with_another_config_is_told_before_anything_runs(tmp_path):
    config = freeze(config_files.load_config_file("configs/glue.py:mrpc"))
    (tmp_path / "two").mkdir()
    (tmp_path / "two/config.json").write_text(to_json(with_fields(config, {"train.batch_size": 4})))
    with pytest.raises(UserError, match=r"two holds a run with another config: train.batch_size is 16 and was 4"):
        run_missing({"one": config, "two": config}, tmp_path)
    assert not (tmp_path / "one").exists()


def _killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _stopped(*_, **__):
    raise Interrupted(7, signal.SIGTERM)


@pytest.mark.full  # it starts processes
@pytest.mark.parametrize(
    ("end", "error", "reason"),
    [
        (_killed, UserError, "a process was killed, .*; the same command resumes"),
        (_stopped, Interrupted, "SIGTERM: stopped after step 7 and saved"),
    ],
)
def test_a_run_that_is_stopped_stops_the_grid_with_one_line(end, error, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "_run", end)
    with pytest.raises(error, match=reason):
        run_missing({"one": freeze(config_files.load_config_file("configs/glue.py:mrpc"))}, tmp_path)


def test_jobs_share_out_cores_and_gpus():
    assert slots(1, [0, 1, 2], []) == [Slot(frozenset({0, 1, 2}), "")]
    assert slots(2, [0, 1, 2], ["4", "5"]) == [Slot(frozenset({0, 2}), "4"), Slot(frozenset({1}), "5")]
    assert [slot.gpu for slot in slots(4, [0], ["4", "5"])] == ["4", "5", "4", "5"]
    assert slots(3, [0], [])[2].cores == {0}


def test_a_run_sees_the_gpu_that_it_has(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    cores = frozenset(os.sched_getaffinity(0))
    grid._take(Slot(cores, ""))
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]) == ("0,1,2,3", "false")
    grid._take(Slot(cores, "2"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"


def _parent_before_backends():
    jax.config.update("jax_num_cpu_devices", 2)  # which is refused once there is a backend
    return os.getppid()


@pytest.mark.full
def test_what_runs_elsewhere_answers_and_may_choose_cores_and_gpu_after_the_imports():
    assert elsewhere(_parent_before_backends) == os.getpid()
    jax.devices()
    with pytest.raises(RuntimeError, match="before backends are initialized"):
        _parent_before_backends()


@pytest.mark.full
def test_what_fails_elsewhere_fails_here():
    with pytest.raises(UserError, match="no config file"):
        elsewhere(config_files.load_config_file, "none.py")
    with pytest.raises(UserError, match="a process was killed"):
        elsewhere(_killed)


def test_no_jobs_are_refused(tmp_path):
    with pytest.raises(UserError, match="--jobs=0: at least one run at a time is wanted"):
        run_missing({}, tmp_path, jobs=0)
