"""The house stays easy to walk through: few files at a door, short files, and every folder says what is in it."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hut_jax"
FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE})
CODE = sorted(
    path for name in ("hut_jax", "configs", "experiments", "benchmarks") for path in ROOT.glob(f"{name}/**/*.py")
)


def name_of(path):
    return str(path.relative_to(ROOT))


def test_the_top_level_holds_the_commands_the_config_and_the_public_surface():
    assert len(list(PACKAGE.glob("*.py"))) <= 10


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_is_small_and_says_what_is_in_it(folder):
    assert len(list(folder.glob("*.py"))) <= 16
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_no_file_is_longer_than_400_lines():
    assert [name_of(path) for path in CODE if len(path.read_text().splitlines()) > 400] == []


def test_the_page_on_the_code_has_the_folders_and_the_layers_of_the_contract():
    page = (ROOT / "docs/design.md").read_text()
    (contract,) = [
        contract
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    assert "".join(f"    {layer}\n" for layer in contract["layers"]) in page
    for folder in PACKAGE.glob("*/__init__.py"):
        assert f"\n      {folder.parent.name}/ " in page


@pytest.mark.full
def test_an_upward_import_is_found(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "hut_jax")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "hut_jax/models/layers.py", "a") as file:
        file.write("\nimport hut_jax.runs\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "hut_jax.models is not allowed to import hut_jax.runs" in done.stdout
