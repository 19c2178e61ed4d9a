"""How programs that run a model are compiled, and their code kept on disk for the next run of a command."""

import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

MOST_BYTES = 2 * 2**30
"""The most bytes that are kept. Beyond them, the code that was used least recently is deleted."""


_FLOATS_SLICES = jax.__version_info__ < (0, 11)
"""Whether XLA slices bf16 arrays in fp32 on a CPU."""


class Program:
    """`jax.jit` for a function that runs a model, with the compiler's options that suit the device.

    Before JAX 0.11 a CPU slices bf16 arrays in fp32. So a loop over layers converts the stack of all kernels for each
    layer. XLA sees that this is the same every time, and converts the stack once, before the loop. The loop then reads
    twice the bytes, and the copy takes memory. Without this pass XLA converts no more than the slice.

    JAX takes such options at the outermost `jax.jit` alone. Within another one this is `jax.jit` without them.

    Args:
        function: as for `jax.jit`.
        **options: of `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], **options: Any):
        self._function, self._options = function, options

    @cached_property
    def alone(self) -> Any:
        """What runs outside of other traced functions. The device is asked for at the first use, not at an import."""
        off = None
        if _FLOATS_SLICES and jax.default_backend() == "cpu":
            off = {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
        return jax.jit(self._function, compiler_options=off, **self._options)

    @cached_property
    def _within(self) -> Any:
        return jax.jit(self._function, **self._options)

    def __call__(self, *args: Any) -> Any:
        """As `jax.jit`."""
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        return (self._within if traced else self.alone)(*args)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        """As `jax.jit`."""
        return self.alone.lower(*args)


def keep_compiled() -> None:
    """Keep compiled code in the user's cache folder, unless JAX already has a folder for it.

    `JAX_COMPILATION_CACHE_DIR` names another folder. `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hut_jax" / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the home folder is not writable
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    # Keep even what compiles fast: a run has dozens of small programs, which together delay the next start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """A name for this processor's features, since machines may share a home and JAX does not tell CPUs apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "any"
    able = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:12]
