"""What the documents show is run."""

import importlib.util
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from hut_jax.transforms import TRANSFORMS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def family():
    """The family's suite as a module of its own, to which a sample may be added."""
    spec = importlib.util.spec_from_file_location("family_with_a_guest", ROOT / "tests/transforms/test_family.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_link_leads_to_a_file():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.full
def test_the_transformation_of_the_page_passes_the_familys_suite(family, tmp_path, monkeypatch):
    page = (ROOT / "docs/write_your_own.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) < 30
    (tmp_path / "page.py").write_text(code)
    spec = importlib.util.spec_from_file_location("page", tmp_path / "page.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "page", module)
    spec.loader.exec_module(module)

    mix = module.InputMix(rank=2)
    monkeypatch.setitem(TRANSFORMS, mix.name, module.InputMix)
    monkeypatch.setitem(family.SAMPLES, "mix", mix)
    monkeypatch.setitem(family.DENSE, "mix", mix)
    monkeypatch.setitem(family.DEFINITIONS, mix.name, lambda w, bias, t, a, b: (w + a @ b @ w, bias))
    family.test_every_transformation_is_in_this_suite()
    for dtype in (jnp.float32, jnp.bfloat16):
        family.test_what_init_gives_and_zero_are_the_identity_to_the_bit("mix", dtype)
    family.test_merge_is_the_published_formula("mix")
    family.test_a_merged_layer_is_the_adapted_one(name="mix")
    family.test_gradients_are_those_of_finite_differences_in_float64("mix")
    family.test_a_scan_of_recomputed_layers_is_its_merged_layers_one_by_one("mix")
    family.test_gradients_and_vmap_through_the_interceptor_are_those_through_merge("mix")
    family.test_a_bf16_base_stays_bf16_and_close("mix")
    family.test_unmerge_gives_the_base_to_the_bit("mix")
    family.test_merging_what_is_not_finite_is_refused("mix")
    family.test_saving_what_was_loaded_writes_the_same_bytes("mix", tmp_path)
    family.test_each_row_of_a_batch_may_have_its_own_factors("mix")
    family.test_combining_is_by_weight_or_refused("mix")
