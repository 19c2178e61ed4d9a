"""The log of a run: its lines and scalars, where its disk is full, and what it imports."""

import os
import subprocess
import sys

import pytest

from hut_jax.training.log import MetricsLog, NoLog, read_metrics, show


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_that_cannot_be_written_hold_up_nothing(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, 0, 0)
    events = log._board.file_writer.event_writer

    def full(event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events._ev_writer, "write_event", full)
    log.write(0, "train", {"loss": 1.0})
    events._worker.join(timeout=20)
    assert not events._worker.is_alive()
    for step in range(1, 40):  # more than its queue holds
        log.write(step, "train", {"loss": 1.0})
    log.close()
    assert len(read_metrics(tmp_path)) == 40


def test_pytorch_is_not_imported_though_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('imported')")
    code = (
        "import sys; from pathlib import Path; from hut_jax.training.log import MetricsLog; "
        f"log = MetricsLog(Path({str(tmp_path)!r}), 0, 0); log.write(0, 'train', {{'loss': 1.0}}); log.close(); "
        "assert 'torch' not in sys.modules; import torch"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.stderr.rstrip().endswith("RuntimeError: imported")  # by the last statement, and by none before it
    assert [*(tmp_path / "tensorboard").iterdir()]


def written(workdir):
    return (workdir / "metrics.jsonl").read_text()


def test_a_line_is_there_at_once_and_has_its_scalars(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, 0, 0)
    scalars = []
    monkeypatch.setattr(log._board, "add_scalar", lambda *given: scalars.append(given))
    log.write(3, "train", {"loss": 1.5, "tokens_per_second": 2.0})
    assert written(tmp_path) == '{"step": 3, "split": "train", "loss": 1.5, "tokens_per_second": 2.0}\n'
    assert scalars == [("train/loss", 1.5, 3), ("train/tokens_per_second", 2.0, 3)]
    assert log.lines == 1
    events = log._board.file_writer.event_writer._worker
    log.close()
    assert not events.is_alive()  # all of them are written


def test_lines_after_the_checkpoint_and_half_a_line_are_removed(tmp_path):
    lines = [f'{{"step": {step}, "split": "train", "loss": 1.0}}\n' for step in (1, 2, 3)]
    for text, count, kept in (("".join(lines), 2, 2), (lines[0] + lines[1][:9], 5, 1), ("", 3, 0)):
        (tmp_path / "metrics.jsonl").write_text(text)
        log = MetricsLog(tmp_path, 2, count)
        assert log.lines == kept
        assert written(tmp_path) == "".join(lines[:kept])
        log.write(3, "train", {"loss": 1.0})
        log.close()
        assert (log.lines, written(tmp_path)) == (kept + 1, "".join([*lines[:kept], lines[2]]))


def test_scalars_after_the_checkpoint_are_purged(tmp_path, monkeypatch):
    """TensorBoard then shows none of the steps that a killed process had begun."""
    asked = []

    class Board:
        def __init__(self, folder, purge_step):
            asked.append((folder, purge_step))

    monkeypatch.setattr("hut_jax.training.log._summary_writer", lambda: Board)
    MetricsLog(tmp_path, 0, 0)._file.close()
    MetricsLog(tmp_path, 7, 0)._file.close()
    assert asked == [(str(tmp_path / "tensorboard"), None), (str(tmp_path / "tensorboard"), 8)]


def test_a_process_without_a_log_writes_nothing_and_metrics_are_shown_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = NoLog(3, 5)
    log.write(3, "train", {"loss": 1.0})
    log.close()
    assert log.lines == 0
    assert not [*tmp_path.iterdir()]
    assert show({"loss": 1.23456, "bleu": 0.5}) == "loss 1.235, bleu 0.5"
