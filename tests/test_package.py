"""The package as pip installs it: what is in the wheel, and that it works without the clone."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from hut_jax.runs.config_files import load_config_file

ROOT = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob(".github/workflows/*.yml")]


def test_each_command_is_a_script_that_calls_it():
    commands = ("train", "evaluate", "generate", "predict", "merge", "cost")
    assert {f"hut-{name}": f"hut_jax.{name}:script" for name in commands} == SCRIPTS
    for name in commands:
        module = importlib.import_module(f"hut_jax.{name}")
        assert module.script.args == (module.main,)


def test_the_scripts_that_pages_and_workflows_name_exist():
    named = {name for page in PAGES for name in re.findall(r"(?<![\w/.-])hut-[a-z]+\b(?!/)", page.read_text())}
    assert named - {"hut-jax"} <= SCRIPTS.keys()
    assert named >= {"hut-train", "hut-generate"}


def test_the_config_of_the_page_is_the_papers_for_one_epoch():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/start.md").read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["get_config"]().train.epochs == 1.0
    assert load_config_file("e2e").train.epochs == 5.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from the source distribution as for a release."""
    source, output = (tmp_path_factory.mktemp(name) for name in ("source", "output"))
    made = {"runs", "build", "dist", "hut_jax.egg-info"}  # here by hand, perhaps, and in no clone

    def others(folder, names):
        return [name for name in names if name[0] == "." or name == "__pycache__" or (folder == ROOT and name in made)]

    shutil.copytree(ROOT, source, ignore=lambda folder, names: others(Path(folder), names), dirs_exist_ok=True)

    def build(kind, folder):
        code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", code, output], cwd=folder, capture_output=True, text=True, check=True
        )
        return output / done.stdout.splitlines()[-1]

    archive = build("sdist", source)
    with tarfile.open(archive) as file:
        file.extractall(output, filter="data")
    return build("wheel", output / archive.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment with the wheel, and with what it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    assert {path.name for path in site.iterdir()} == {"hut_jax", wheel.name.split("-py3")[0] + ".dist-info"}
    (site / "needed.pth").write_text("".join(f"{sysconfig.get_path(name)}\n" for name in ("purelib", "platlib")))
    return folder


@pytest.mark.full
def test_the_wheel_has_the_package_its_configs_and_its_assets_and_nothing_else(wheel):
    inside = {"hut_jax": "hut_jax", "configs": "hut_jax/configs", "assets": "hut_jax/assets"}
    files = {
        f"{there}/{path.relative_to(ROOT / here)}"
        for here, there in inside.items()
        for path in (ROOT / here).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {"hut_jax/py.typed", "hut_jax/configs/__init__.py", "hut_jax/assets/tiny/model.safetensors"} <= files
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == files


@pytest.mark.full
def test_the_installed_scripts_train_and_write_in_an_empty_folder(environment, tmp_path):
    def script(name, *arguments):
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
        command = [environment / "bin" / name, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    small = ["--config.train.steps=2", "--config.eval.max_examples=8", "--config.mesh.data=1"]
    trained = script("hut-train", "--config=quickstart", "--workdir=w", *small)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "w/adapter/adapter_model.safetensors").exists()

    (tmp_path / "mrs.txt").write_text("name[The Mill], food[Welsh]\n")
    short = ["--config.decode.beams=2", "--config.decode.max_new_tokens=4"]
    written = script("hut-generate", "--workdir=w", "--input=mrs.txt", "--output=texts.txt", *short)
    assert written.returncode == 0, written.stderr
    assert len((tmp_path / "texts.txt").read_text().splitlines()) == 1

    mistaken = script("hut-train", "--config=kwikstart", "--workdir=w")
    assert mistaken.returncode == 2
    assert re.fullmatch(r"error: the package has no config 'kwikstart'.*did you mean 'quickstart'\?\n", mistaken.stderr)
