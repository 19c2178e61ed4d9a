"""How programs are compiled, and that compiled code is kept between processes, where nobody said otherwise."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hut_jax.core import compilation
from hut_jax.core.compilation import Program
from hut_jax.core.products import matmul

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


def through_layers(x, kernels):
    """The last of some scanned layers."""
    return jax.lax.scan(lambda x, kernel: (jnp.tanh(matmul(x, kernel)), None), x, kernels)[0]


SHAPES = jax.ShapeDtypeStruct((4, 128), jnp.bfloat16), jax.ShapeDtypeStruct((6, 128, 128), jnp.bfloat16)
STACK = 4 * SHAPES[1].size  # bytes in fp32


def memory(lowered):
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_a_loop_converts_no_whole_stack_of_kernels():
    assert memory(Program(through_layers).lower(*SHAPES)) < STACK
    plain = memory(Program(through_layers).plain.lower(*SHAPES))
    assert (plain >= STACK) == compilation._WIDENS_SLICES  # the option can go when no supported JAX needs it


def test_passes_that_the_user_left_out_stay_out(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_disable_hlo_passes=algsimp")  # an option for a program would replace it
    assert (memory(Program(through_layers).lower(*SHAPES)) >= STACK) == compilation._WIDENS_SLICES


def test_it_computes_the_same_alone_and_within_other_programs():
    draw = np.random.default_rng(0).normal
    x, kernels = (jnp.asarray(draw(size=one.shape, scale=128**-0.5), one.dtype) for one in SHAPES)
    program = Program(through_layers)
    want = np.asarray(jax.jit(through_layers)(x, kernels))
    assert len(np.unique(want)) > 200
    for got in (
        program(x, kernels=kernels),
        jax.jit(program)(x, kernels),
        jax.jit(lambda: program(x, kernels))(),  # its arguments are no tracers
        jax.vmap(program, (0, None))(x[:, None], kernels)[:, 0],
    ):
        assert np.array_equal(got, want)
    assert jax.eval_shape(program, *SHAPES).shape == want.shape
    assert jax.make_jaxpr(jax.grad(lambda *given: program(*given).sum()))(*SHAPES)
    assert np.isfinite(np.float32(jax.grad(lambda *given: program(*given).sum())(x, kernels))).all()


def test_the_options_of_jit_are_its_options():
    program = Program(lambda times, x: jnp.tile(x, times), static_argnums=0)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.ones(2, dtype)
        assert program(3, x).shape == jax.jit(lambda x: program(3, x))(x).shape == (6,)


class Config:
    """JAX's configuration as far as it is asked for."""

    def __init__(self, folder=None):
        self.values = {"jax_compilation_cache_dir": folder}

    def update(self, name, value):
        self.values[name] = value


@pytest.fixture
def keep(monkeypatch):
    """What `keep_compiled` makes of JAX's configuration."""

    def keep(home, folder=None):
        config = Config(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=config))
        compilation.keep_compiled()
        return config.values

    return keep


def test_it_is_kept_in_the_users_cache_by_processor(keep, tmp_path):
    values = keep(tmp_path)
    folder = Path(values.pop("jax_compilation_cache_dir"))
    assert folder.parent == tmp_path / "hut_jax" / "compiled"
    assert folder.is_dir()
    assert values == {
        "jax_compilation_cache_max_size": 2 * 2**30,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }


def test_another_folder_stands_and_a_home_that_cannot_be_written_is_no_error(keep, tmp_path):
    assert keep(tmp_path, "elsewhere") == {"jax_compilation_cache_dir": "elsewhere"}
    assert not [*tmp_path.iterdir()]
    (tmp_path / "file").write_text("")
    assert keep(tmp_path / "file") == {"jax_compilation_cache_dir": None}


@pytest.mark.full
def test_it_is_kept_and_used_again(tmp_path):
    run(XDG_CACHE_HOME=str(tmp_path))
    files = compiled(tmp_path / "hut_jax" / "compiled")
    assert files
    before = [path.stat().st_mtime_ns for path in files]
    run(XDG_CACHE_HOME=str(tmp_path))
    assert compiled(tmp_path) == files
    assert [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.full
@pytest.mark.parametrize(
    "told", [{"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, {"JAX_ENABLE_COMPILATION_CACHE": "false"}]
)
def test_what_jax_was_told_stands(tmp_path, told):
    told = {name: str(tmp_path / value) if value == "elsewhere" else value for name, value in told.items()}
    run(XDG_CACHE_HOME=str(tmp_path / "cache"), **told)
    assert not compiled(tmp_path / "cache")
    assert bool(compiled(tmp_path / "elsewhere")) == ("JAX_COMPILATION_CACHE_DIR" in told)


@pytest.mark.full
def test_a_home_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    run(XDG_CACHE_HOME=str(tmp_path / "file"))
