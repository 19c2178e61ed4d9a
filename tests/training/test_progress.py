"""What a run shows of its progress on the terminal; its record in a checkpoint is in test_earlier_names.py."""

from hut_jax.training import progress
from hut_jax.training.progress import Progress, ProgressBar


def test_a_run_without_a_checkpoint_owes_its_first_evaluation():
    start = Progress.at_the_start()
    assert start.owed
    assert (start.data, start.window, start.lines, start.last, start.best, start.seconds) == (None, [], 0, {}, {}, 0.0)


def test_the_bar_counts_from_where_the_run_resumed(capsys):
    with ProgressBar(3, 10) as bar:
        assert (bar._bar.n, bar._bar.total) == (3, 10)
        bar.advance(5)
        bar.advance(6)
        assert bar._bar.n == 6
        bar.show({"loss": 1.23456, "tokens_per_second": 12345.6})
        assert bar._bar.postfix == "loss 1.235, 12,346 tokens/s"
        bar.show_evaluation(6, {"loss": 0.5, "bleu": 0.25})
    out, error = capsys.readouterr()
    assert out == "step 6: validation loss 0.5, bleu 0.25\n"
    assert "3/10" in error
    assert bar._bar.disable or bar._bar.pos == 0  # it is closed


def test_processes_but_the_first_show_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "is_first", lambda: False)
    with ProgressBar(0, 10) as bar:
        bar.advance(5)
        bar.show({"loss": 1.0, "tokens_per_second": 1.0})
        bar.show_evaluation(5, {"loss": 0.5})
    assert capsys.readouterr() == ("", "")
