"""Compiled code is kept between processes, where nobody said otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import jax, jax.numpy as jnp
from hut_jax.core.compilation import keep_compiled
keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))[0, 0])
"""


def run(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    subprocess.run([sys.executable, "-c", COMMAND], check=True, env=kept | environment, cwd=Path(__file__).parents[2])


def compiled(folder):
    return sorted(path for path in folder.rglob("*-cache"))


def test_it_is_kept_and_used_again(tmp_path):
    run(XDG_CACHE_HOME=str(tmp_path))
    files = compiled(tmp_path / "hut_jax" / "compiled")
    assert files
    before = [path.stat().st_mtime_ns for path in files]
    run(XDG_CACHE_HOME=str(tmp_path))
    assert compiled(tmp_path) == files
    assert [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.parametrize(
    "told", [{"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, {"JAX_ENABLE_COMPILATION_CACHE": "false"}]
)
def test_what_jax_was_told_stands(tmp_path, told):
    told = {name: str(tmp_path / value) if value == "elsewhere" else value for name, value in told.items()}
    run(XDG_CACHE_HOME=str(tmp_path / "cache"), **told)
    assert not compiled(tmp_path / "cache")
    assert bool(compiled(tmp_path / "elsewhere")) == ("JAX_COMPILATION_CACHE_DIR" in told)


def test_a_home_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    run(XDG_CACHE_HOME=str(tmp_path / "file"))
