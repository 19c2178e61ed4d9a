"""CI and the workflow files run targets that exist; the lists of packages are as they say; a release is checked."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def make(*arguments):
    return subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True)


def jobs(name):
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text())["jobs"]


def targets_of_the_workflow():
    quick, others = jobs("tests.yml")["quick"], jobs("tests.yml")["others"]
    for job in (quick, others):
        assert job["steps"][-1] == {"run": "make ${{ matrix.target }}"}
    cases = quick["strategy"]["matrix"]["include"]
    return {case["target"] for case in cases} | set(others["strategy"]["matrix"]["target"])


@pytest.mark.full
def test_ci_and_the_workflow_run_the_same_targets_and_each_exists():
    in_ci = set(re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert targets_of_the_workflow() == in_ci
    assert make(*in_ci).returncode == 0
    assert make("no-such-target").returncode != 0


def test_the_workflow_tests_every_python_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert versions == {case["python"] for case in jobs("tests.yml")["quick"]["strategy"]["matrix"]["include"]}
    assert project["requires-python"] == ">=" + min(versions, key=lambda version: int(version.split(".")[1]))


@pytest.mark.full
def test_a_python_that_is_not_here_skips_its_end_of_the_matrix():
    for end in ("oldest", "newest"):
        assert "skipped: there is no Python" in make(f"test-{end}", f"{end.upper()}=").stdout
    found = subprocess.run([ROOT / ".ci/find-python", "3.99"], capture_output=True)
    assert (found.returncode, found.stdout) == (1, b"")


def test_what_we_need_has_a_lowest_version_and_no_highest():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    for line in filter(None, lines):
        assert re.fullmatch(r"[A-Za-z0-9_-]+>=[0-9.]+", line), line


@pytest.fixture
def release(tmp_path):
    """A function that checks a tag against the given versions of the project and the changelog."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/check-release", tmp_path / ".ci")

    def check(tag, project, changelog):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\nversion = "{project}"\n')
        (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{changelog}] - 2026-01-01\n\n## [0.0.1]\n")
        return subprocess.run([tmp_path / ".ci/check-release", tag], capture_output=True, text=True)

    return check


def test_a_tag_is_the_version_of_the_project_and_of_the_changelog(release):
    assert release("v1.2.0", "1.2.0", "1.2.0").returncode == 0
    for versions in (("v1.2.1", "1.2.0", "1.2.0"), ("v1.2.0", "1.1.0", "1.2.0"), ("v1.2.0", "1.2.0", "1.1.0")):
        done = release(*versions)
        assert done.returncode == 1
        assert done.stderr == (
            f"error: the tag is {versions[0]}, pyproject.toml has version {versions[1]}, "
            f"and CHANGELOG.md's newest release is {versions[2]}\n"
        )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_named_and_may_write_nothing_that_it_need_not(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["name"]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "uses" in job or job["timeout-minutes"] <= 60
