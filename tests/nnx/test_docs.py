"""What docs/nnx.md shows is run."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.full
def test_the_code_of_the_page_trains_an_nnx_model_and_a_plain_function(tmp_path, monkeypatch, capsys):
    """Every line of Python on the page, in order. The control is the base's loss."""
    page = (Path(__file__).parent.parent.parent / "docs/nnx.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in blocks:
        exec(code, names)
    assert "trainable" in capsys.readouterr().out
    logits, right = names["merged"](names["x"]), names["y"]
    assert float(names["value"]) < 0.3 * float(jnp.log(4.0))
    assert np.mean(logits.argmax(axis=1) == right) > 0.9
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(names["slopes"]["out"]))
