"""What the documents show is run."""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.transforms import TRANSFORMS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def suites():
    """The suites of one kernel and of a model as modules of their own, to which a sample may be added."""
    modules = []
    for name in ("test_family", "test_family_on_a_model"):
        spec = importlib.util.spec_from_file_location(f"{name}_with_a_guest", ROOT / f"tests/transforms/{name}.py")
        modules.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(modules[-1])
    return modules


def test_every_link_leads_to_a_file():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "experiments/README.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.full
def test_the_training_loop_of_the_page_trains_a_model_that_knows_nothing_of_the_library():
    """Every line of Python on the page, in order. The control is the base's loss."""
    page = (ROOT / "docs/method.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    names = {"__name__": "page"}
    for code in blocks:
        exec(code, names)
    params, factors = names["params"], names["factors"]
    step, optimizer, value = names["step"], names["optimizer"], names["value"]

    start = jax.tree.map(jnp.zeros_like, factors)
    base = step(params, start, optimizer.init(start), names["x"], names["y"])[2]
    assert value < 0.3 * base

    gradients = jax.tree.map(jnp.ones_like, factors)
    by_group, train_state = names["by_group"], names["train_state"]

    @jax.jit
    def updates():
        first = train_state.apply_gradients(grads=gradients).params
        grouped = by_group.update(gradients, by_group.init(start), start)[0]
        return jax.tree.map(jnp.subtract, first, factors), grouped

    for moved in updates():
        for layer in moved.values():
            assert np.allclose(layer["g"], 0.1 * layer["a"].mean(), rtol=0.02)
            assert np.abs(layer["g"]).min() > 1e-3


@pytest.mark.full
def test_the_transformation_of_the_page_passes_the_familys_suites(suites, tmp_path, monkeypatch):
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
    kernel, _ = suites
    for suite in suites:
        monkeypatch.setitem(suite.SAMPLES, "mix", mix)
    monkeypatch.setitem(kernel.DENSE, "mix", mix)
    monkeypatch.setitem(kernel.DEFINITIONS, mix.name, lambda w, bias, t, a, b: (w + a @ b @ w, bias))
    monkeypatch.setitem(kernel.DRAWN, "mix", {"a": 8})
    kernel.test_every_transformation_is_in_this_suite()
    run = 0
    for suite in suites:
        for name, test in vars(suite).items():
            wanted = list(inspect.signature(test).parameters) if name.startswith("test_") else []
            if "name" not in wanted or hasattr(test, "hypothesis"):
                continue
            for dtype in (jnp.float32, jnp.bfloat16) if "dtype" in wanted else (None,):
                given = {"name": "mix", "dtype": dtype, "tmp_path": tmp_path}
                test(**{parameter: given[parameter] for parameter in wanted})
                run += 1
    assert run >= 12
    kernel.test_merging_is_so_for_kernels_of_any_shape(name="mix")
