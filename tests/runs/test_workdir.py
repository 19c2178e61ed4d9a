"""The check of a run's folder, before any run is in it. What a run does with it is in test_train.py."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from hut_jax.core.errors import UserError
from hut_jax.runs.workdir import check_writable


@pytest.mark.parametrize("folder", ["there", "there/not/yet", "not/yet"])
def test_nothing_is_left_behind(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    for form in (Path(folder), tmp_path / folder, Path("there/..") / folder):
        check_writable(form)
        assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_runs_that_begin_together_may_make_the_same_parents(tmp_path):
    together = Barrier(4, timeout=60)

    def begin(run: int) -> None:
        for time in range(50):
            together.wait()
            folder = tmp_path / str(time) / "runs" / str(run)
            check_writable(folder)
            folder.mkdir(parents=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, range(4)))
    assert len(list(tmp_path.glob("*/runs/*"))) == 200


def test_a_name_that_cannot_be_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"the folder .* cannot be written: File name too long"):
        check_writable(tmp_path / ("x" * 300) / "run", "the folder")
    assert list(tmp_path.iterdir()) == []
