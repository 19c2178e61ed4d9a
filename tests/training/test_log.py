"""The log of a run: where its disk is full, and what it imports."""

import os
import subprocess
import sys

import pytest

from hut_jax.training.log import MetricsLog, read_metrics


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
