"""The check and the lock of a run's folder. What a run does with it is in test_train.py."""

import errno
import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from hut_jax.core.errors import UserError
from hut_jax.runs.workdir import check_writable, use_workdir

ROOT = Path(__file__).parents[2]


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


def hold(workdir: Path) -> subprocess.Popen:
    """A process that uses the workdir until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from hut_jax.runs.workdir import use_workdir\n"
        "with use_workdir(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(workdir)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.full
def test_another_process_is_refused_until_it_is_killed(tmp_path):
    with hold(tmp_path / "run") as process:
        with (
            pytest.raises(UserError, match=r"another process trains in .*run; wait for it"),
            use_workdir(tmp_path / "run"),
        ):
            pass
        process.kill()
    with use_workdir(tmp_path / "run"):
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_what_a_killed_run_had_begun_to_write_is_taken_away(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / ".adapter-x.partial").mkdir()
    (tmp_path / ".adapter-x.partial/adapter_config.json").write_text("{")
    (tmp_path / ".result.json.partial").write_text("{")
    (tmp_path / "adapter/.adapter_model.safetensors.1.partial").write_text("half")
    (tmp_path / "adapter/.hidden").write_text("the user's own")
    with use_workdir(tmp_path):
        assert {path.name for path in tmp_path.rglob("*")} == {".lock", "adapter", ".hidden"}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_that_cannot_be_locked_is_used_with_a_note(number, tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with use_workdir(tmp_path / "run"):
        (tmp_path / "run/file").write_text("")
    assert capsys.readouterr().out == (
        f"note: {tmp_path / 'run'} cannot be locked ({os.strerror(number)}): make sure that no other run uses it\n"
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock", "file"}
    monkeypatch.undo()
    with use_workdir(tmp_path / "run"):  # nothing is left that would look like a lock
        pass
