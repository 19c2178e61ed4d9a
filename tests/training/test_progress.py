"""What a run shows of its progress on the terminal; its record in a checkpoint is in test_earlier_names.py."""

from types import SimpleNamespace

import pytest

from hut_jax.training import progress
from hut_jax.training.progress import Progress, ProgressBar


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(perf_counter=lambda: clock.seconds, seconds=50.0)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_run_without_a_checkpoint_owes_its_first_evaluation():
    start = Progress.at_the_start(owed=True)
    assert start.owed
    assert not Progress.at_the_start(owed=False).owed
    assert (start.data, start.window, start.lines, start.last, start.best, start.seconds) == (None, [], 0, {}, {}, 0.0)


def test_the_bar_counts_from_where_the_run_resumed(capsys):
    with ProgressBar(3, 10, 10) as bar:
        assert (bar._bar.n, bar._bar.total) == (3, 10)
        bar.advance(5)
        bar.advance(6)
        assert bar._bar.n == 6
        bar.show({"loss": 1.23456, "tokens_per_second": 12345.6})
        assert str(bar._bar).endswith(", loss 1.235, 12,346 tokens/s]")
        bar.show_evaluation(6, {"loss": 0.5, "bleu": 0.25})
    out, error = capsys.readouterr()
    assert out == "step 6: validation loss 0.5, bleu 0.25\n"
    assert " 30%|" in error
    assert "3/10" in error
    assert bar._bar.disable or bar._bar.pos == 0  # it is closed


def left(bar):
    """The time left and the pace, as the line shows them."""
    return str(bar._bar).partition("<")[2]


def test_the_time_left_counts_steps_and_evaluations_but_no_compiling(clock):
    with ProgressBar(0, 10, 4) as bar:
        with bar.evaluating():
            with bar.compiling():
                clock.seconds += 1000
            clock.seconds += 5
        clock.seconds += 70  # the start is saved
        with bar.compiling():
            clock.seconds += 500
        bar.advance(1)
        assert left(bar) == "?, ?step/s]"
        clock.seconds += 2
        bar.advance(2)
        assert left(bar) == "00:31,  2.00s/step]"  # 8 steps, and evaluations at 4, 8 and 10
        with bar.compiling():
            clock.seconds += 300
        for _ in range(2):
            clock.seconds += 2
            bar.advance(bar._bar.n + 1)
        assert left(bar) == "00:22,  2.00s/step]"  # 6 steps, and those at 8 and 10: that at 4 is about to begin
        with bar.evaluating():
            clock.seconds += 3
        clock.seconds += 6
        bar.advance(5)
        assert left(bar) == "00:21,  3.00s/step]"  # 5 steps at the mean of all; the last evaluation took 3
        clock.seconds += 3 * 5
        bar.advance(10)
        assert left(bar).startswith("00:00, ")


def test_the_pace_of_a_resumed_run_is_that_of_its_last_process(clock):
    with ProgressBar(6, 10, 5) as bar:
        bar.advance(7)
        clock.seconds += 0.25
        bar.advance(8)
        assert left(bar) == "00:00,  4.00step/s]"
        assert bar._bar.left == 0.5


def test_compiling_and_validating_are_said_in_place_of_the_figures(capsys):
    with ProgressBar(0, 10, 5) as bar:
        bar.show({"loss": 1.0, "tokens_per_second": 5.0})
        for activity, says in ((bar.compiling, "compiling ..."), (bar.evaluating, "validating ...")):
            capsys.readouterr()
            with activity():
                assert f"{says}]" in capsys.readouterr().err
                assert "loss" not in str(bar._bar)
            assert "loss 1.000" in capsys.readouterr().err
        with bar.evaluating():
            with pytest.raises(KeyboardInterrupt), bar.compiling():
                raise KeyboardInterrupt
            assert "validating ...]" in str(bar._bar)


def test_processes_but_the_first_show_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "is_first", lambda: False)
    with ProgressBar(0, 10, 5) as bar:
        with bar.evaluating(), bar.compiling():
            pass
        bar.advance(5)
        bar.show({"loss": 1.0, "tokens_per_second": 1.0})
        bar.show_evaluation(5, {"loss": 0.5})
    assert capsys.readouterr() == ("", "")
