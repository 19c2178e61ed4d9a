"""The package's own assets, found from any directory."""

from pathlib import Path

import pytest

from hut_jax.core import assets
from hut_jax.core.assets import here
from hut_jax.data.tokenizer import load_tokenizer
from hut_jax.models.hub.pretrained import build_model
from hut_jax.runs.config_files import load_config_file
from hut_jax.tasks import TASKS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def test_the_quickstarts_base_and_data_are_found_from_another_directory(elsewhere, tmp_path):
    config = load_config_file(str(ROOT / "configs/quickstart.py"))
    config.data.cache = str(tmp_path / "cache")
    assert build_model(config.model).config.vocab_size == load_tokenizer(config.model).vocab_size
    assert len(TASKS["e2e"].load_references(config.data)) == 100
    assert list(elsewhere.iterdir()) == []


def test_what_lies_here_comes_first_and_other_paths_stay_as_they_are(elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    for path in ("", "gpt2", "assets/none", "other/tiny", "/assets/tiny", "tiny"):
        assert here(path) == path
    assert here("~/base") == "/home/somebody/base"
    assert Path(here("assets/tiny")).samefile(ROOT / "assets/tiny")
    (elsewhere / "assets/tiny").mkdir(parents=True)
    assert Path(here("assets/tiny")).samefile(elsewhere / "assets/tiny")


def test_those_in_the_package_come_before_those_beside_it(elsewhere, monkeypatch):
    """A wheel has them in the package; what lies beside an installed package is not ours."""
    assert [folder.relative_to(ROOT) for folder in assets.FOLDERS] == [Path("hut_jax/assets"), Path("assets")]
    for folder in ("package", "beside"):
        (elsewhere / folder / "tiny").mkdir(parents=True)
    monkeypatch.setattr(assets, "FOLDERS", (elsewhere / "package", elsewhere / "beside"))
    assert here("assets/tiny") == str(elsewhere / "package/tiny")
