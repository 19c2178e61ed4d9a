"""What a run says of its machine."""

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from hut_jax.runs import machine
from hut_jax.runs.machine import commit, describe_machine, device_name, peak_bytes, processor


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse2 avx avx2\n\nprocessor\t: 1\n", "AMD EPYC, avx2"),
        ("model name\t: Intel(R) Xeon(R)\nflags\t\t: avx avx2 avx512f avx512bw\n", "Intel(R) Xeon(R), avx512f"),
        ("processor\t: 0\nFeatures\t: fp asimd aes\n", f"{platform.machine()}, asimd"),
        ("", platform.machine()),
    ],
)
def test_a_processor_is_known_by_name_and_widest_vectors(cpuinfo, name):
    assert processor(cpuinfo) == name


def test_the_devices_are_counted_and_named():
    assert re.fullmatch(rf"{jax.device_count()} x .+", device_name())


def test_the_peak_is_the_devices_own_where_it_has_one(monkeypatch):
    stats = {"peak_bytes_in_use": 7, "bytes_in_use": 5}
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: stats)])
    assert peak_bytes() == 7


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak in /proc")
def test_elsewhere_the_peak_is_the_processs():
    linux = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak_bytes() == pytest.approx(1024 * int(linux[1]), rel=0.05)


def test_libraries_that_are_not_installed_have_no_version():
    versions = describe_machine("numpy", "no-such-plugin")["versions"]
    assert versions.keys() == {"hut_jax", "python", "numpy"}
    assert versions["numpy"] == importlib.metadata.version("numpy")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with a commit of a file that stands for the module; returns a function that calls git in it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "machine.py").write_text("1\n")
    git("init")
    git("add", "machine.py")
    git("commit", "--message=1", "--no-verify")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    return git


def installed_from(monkeypatch, source):
    """As if pip had written this beside the package."""
    installed = SimpleNamespace(read_text={"direct_url.json": json.dumps(source)}.get)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: {"hut_jax": installed}[name])


def test_the_commit_is_the_clones_with_a_word_on_changes(clone, tmp_path, monkeypatch):
    installed_from(monkeypatch, {"vcs_info": {"vcs": "git", "commit_id": "of another copy"}})
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a hook
    found = commit.__wrapped__()
    monkeypatch.delenv("GIT_DIR")
    assert len(found) >= 7
    assert clone("rev-parse", "HEAD").startswith(found)
    (tmp_path / "machine.py").write_text("2\n")
    assert commit.__wrapped__() == f"{found}-dirty"


def test_an_installed_package_has_the_commit_that_pip_installed(clone, monkeypatch):
    """Also in an environment that lies in somebody's clone, which does not track it."""
    clone("rm", "--cached", "machine.py")
    installed_from(monkeypatch, {"vcs_info": {"vcs": "git", "commit_id": "0123abc"}})
    assert commit.__wrapped__() == "0123abc"
    installed_from(monkeypatch, {"url": "file:///home/a/wheel.whl", "archive_info": {}})
    assert commit.__wrapped__() == ""


def test_without_git_and_without_a_package_there_is_no_commit(clone, tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit.__wrapped__() == ""
