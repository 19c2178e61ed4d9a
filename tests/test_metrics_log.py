"""The log of a run where its disk is full."""

import pytest

from hut_jax.metrics_log import MetricsLog, read_metrics


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
